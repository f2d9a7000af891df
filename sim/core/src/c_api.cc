// SPDX-License-Identifier: GPL-2.0
#include <connectx/device.h>
#include <connectx_c.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <type_traits>

namespace {

// As much as fits, with a 0 behind it.
void copy_text(const std::string &text, char *to, std::size_t size) {
    if (size == 0)
        return;
    const std::size_t n = std::min(text.size(), size - 1);
    std::copy_n(text.data(), n, to);
    to[n] = 0;
}

static_assert(CONNECTX_BAR_SIZE == connectx::kBarSize);
static_assert(CONNECTX_MSIX_TABLE_OFFSET == connectx::kMsixTableOffset);
static_assert(CONNECTX_MSIX_PBA_OFFSET == connectx::kMsixPbaOffset);
static_assert(CONNECTX_MAX_MSIX_VECTORS == connectx::kMaxMsixVectors);
static_assert(CONNECTX_MAX_SADB_SIZE == connectx::kMaxSadbSize);

class CHost final : public connectx::Host {
  public:
    CHost(const connectx_host_ops *ops, void *opaque) : ops_(ops), opaque_(opaque) {}

    bool dma_read(connectx::GuestAddr addr, std::span<std::uint8_t> dst) override {
        return ops_->dma_read(opaque_, addr.value, dst.data(), dst.size());
    }
    bool dma_write(connectx::GuestAddr addr, std::span<const std::uint8_t> src) override {
        return ops_->dma_write(opaque_, addr.value, src.data(), src.size());
    }
    void msix_raise(unsigned vector) override { ops_->msix_raise(opaque_, vector); }
    void wire_tx(std::span<const std::uint8_t> frame) override {
        ops_->wire_tx(opaque_, frame.data(), frame.size());
    }
    std::uint64_t clock_ns() override { return ops_->clock_ns(opaque_); }
    std::uint64_t realtime_ns() override { return ops_->realtime_ns(opaque_); }
    void schedule_work() override { ops_->schedule_work(opaque_); }
    void arm_timer(std::uint64_t deadline_ns) override { ops_->arm_timer(opaque_, deadline_ns); }
    void rx_ready() override { ops_->rx_ready(opaque_); }
    void log(connectx::LogLevel level, std::string_view text) override {
        // No memory to be had: this is also where running out of it is reported.
        std::array<char, 512> line{};
        std::copy_n(text.begin(), std::min(text.size(), line.size() - 1), line.begin());
        ops_->log(opaque_, static_cast<connectx_log_level>(level), line.data());
    }

  private:
    const connectx_host_ops *ops_;
    void *opaque_;
};

} // namespace

struct connectx_device {
    connectx_device(const connectx_host_ops *ops, void *opaque, const ::connectx::Config &config)
        : host(ops, opaque), device(host, config) {}
    CHost host;
    ::connectx::Device device;
};

namespace {

// Out of memory is the only exception to expect: what was going on is given up and logged.
template <typename Fn> auto guarded(struct connectx_device *dev, Fn fn) noexcept {
    using Result = decltype(fn());
    try {
        return fn();
    } catch (const std::exception &e) {
        dev->host.log(connectx::LogLevel::kError, e.what());
        if constexpr (!std::is_void_v<Result>)
            return Result{};
    }
}

} // namespace

extern "C" {

struct connectx_device *connectx_new(const struct connectx_host_ops *ops, void *opaque,
                                     const struct connectx_config *config) {
    if (config->msix_vectors < 2 || config->msix_vectors > connectx::kMaxMsixVectors ||
        config->max_queues < 16 || config->max_queues > 4096 ||
        config->sadb_size > connectx::kMaxSadbSize || config->min_inline > connectx::kMaxMinInline)
        return nullptr;
    connectx::Config c;
    std::copy_n(config->mac, c.mac.size(), c.mac.begin());
    c.msix_vectors = config->msix_vectors;
    c.max_queues = config->max_queues;
    c.sadb_size = config->sadb_size;
    c.quic = config->quic;
    c.quic_inline = config->quic_inline;
    c.quic_lso = config->quic_lso;
    c.quic_ciphers = config->quic_ciphers;
    c.ipsec = config->ipsec;
    c.tls = config->tls;
    c.macsec = config->macsec;
    c.min_inline = config->min_inline;
    c.trace = config->trace;
    try {
        return new connectx_device(ops, opaque, c);
    } catch (const std::exception &) {
        return nullptr;
    }
}

void connectx_free(struct connectx_device *dev) { delete dev; }

bool connectx_parse_quic_ciphers(const char *text, unsigned *ciphers) {
    return connectx::parse_quic_ciphers(text != nullptr ? text : CONNECTX_ALL_QUIC_CIPHERS,
                                        *ciphers);
}

void connectx_mmio_read(struct connectx_device *dev, uint64_t offset, void *data, size_t size) {
    guarded(dev, [&] { dev->device.mmio_read(offset, {static_cast<std::uint8_t *>(data), size}); });
}

void connectx_mmio_write(struct connectx_device *dev, uint64_t offset, const void *data,
                         size_t size) {
    guarded(dev, [&] {
        dev->device.mmio_write(offset, {static_cast<const std::uint8_t *>(data), size});
    });
}

uint32_t connectx_vsc_read(struct connectx_device *dev, unsigned offset) {
    return guarded(dev, [&] { return dev->device.vsc_read(offset); });
}

void connectx_vsc_write(struct connectx_device *dev, unsigned offset, uint32_t value) {
    guarded(dev, [&] { dev->device.vsc_write(offset, value); });
}

void connectx_run(struct connectx_device *dev) {
    guarded(dev, [&] { dev->device.run(); });
}

bool connectx_can_receive(struct connectx_device *dev) {
    return guarded(dev, [&] { return dev->device.can_receive(); });
}

bool connectx_wire_rx(struct connectx_device *dev, const void *frame, size_t size) {
    return guarded(dev, [&] {
        return dev->device.wire_rx({static_cast<const std::uint8_t *>(frame), size});
    });
}

void connectx_set_link(struct connectx_device *dev, bool up) {
    guarded(dev, [&] { dev->device.set_link(up); });
}

void connectx_reset(struct connectx_device *dev) {
    guarded(dev, [&] { dev->device.reset(); });
}

bool connectx_inject_fault(struct connectx_device *dev, const char *spec, char *error,
                           size_t error_size) {
    return guarded(dev, [&] {
        std::string why;
        const bool ok = dev->device.inject_fault(spec, why);
        copy_text(why, error, error_size);
        return ok;
    });
}

size_t connectx_describe(struct connectx_device *dev, char *text, size_t size) {
    return guarded(dev, [&] {
        const std::string s = dev->device.describe();
        copy_text(s, text, size);
        return s.size();
    });
}

} // extern "C"
