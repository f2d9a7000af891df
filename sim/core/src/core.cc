// SPDX-License-Identifier: GPL-2.0
#include "core.h"

#include <bit>
#include <cstdarg>
#include <cstdio>

namespace connectx {

// NOLINTNEXTLINE(cert-dcl50-cpp): the compiler checks formats (the attribute format)
std::string format(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::array<char, 512> buf{};
    const int n = std::vsnprintf(buf.data(), buf.size(), fmt, args);
    va_end(args);
    return n < 0 ? std::string{} : std::string(buf.data());
}

namespace {

// UAR numbers start behind the pages that the initialization segment and the MSI-X table take.
constexpr std::uint32_t kFirstUar = 16;
constexpr std::uint32_t kUarCount = kBarSize / 4096 - kFirstUar;
// Far more halves of doorbells than processors could have under way.
constexpr std::size_t kMaxHalfDoorbells = 4096;

constexpr unsigned kMaxReadRequest = 512; // bytes, PCIe MRRS
constexpr unsigned kMaxPayload = 256;     // bytes, PCIe MPS

// For WorkMeter: an interrupt, a frame or a line of the log is the emulator's work too.
constexpr std::size_t kCallOfHost = 20;
constexpr std::size_t kBytesCopied = 256; // in a unit
constexpr std::size_t kDigPerReset = WorkMeter::kPerCall;
constexpr std::size_t kDigForMemory = WorkMeter::kPerCall / 2;

/// Pieces of a range, none over a multiple of `piece`.
std::uint64_t pieces(GuestAddr addr, std::size_t size, unsigned piece) {
    return size == 0 ? 0 : (addr.value + size - 1) / piece - addr.value / piece + 1;
}

} // namespace

Core::Core(Host &host_in, const Config &config_in)
    : host(host_in), config(config_in), caps(config_in), uars(kFirstUar, kUarCount),
      pds(1, 1 << 16), transport_domains(1, 1 << 10), q_counters(1, 255), eqs(1, 255),
      cqs(0x400, 1 << 16), mkeys(0x10, 1 << 18), sqs(0x1000, std::bit_ceil(config_in.max_queues)),
      rqs(0x8000, std::bit_ceil(config_in.max_queues)), tises(1, 1 << 10), tirs(1, 1 << 12),
      rqts(1, 1 << 12), flow_tables(1, 1 << 16), flow_counters(1, 1 << 16), iseg(*this), vsc(*this),
      commands(*this), pages(*this), events(*this), completions(*this), memory(*this),
      steering(*this), tx(*this), rx(*this), port(*this), faults(*this), quic(*this, config) {
    vport.permanent_mac = config.mac;
    vport.min_inline = config.min_inline;
}

bool Core::dma_read(GuestAddr addr, Bytes dst) {
    work.charge(2 + dst.size() / kBytesCopied);
    ++stats.dma_reads;
    stats.dma_read_bytes += dst.size();
    stats.pcie_reads += pieces(addr, dst.size(), kMaxReadRequest);
    // A range that wraps round the address space is never memory.
    if (addr.value + dst.size() < addr.value || !host.dma_read(addr, dst)) {
        ++stats.dma_errors;
        return false;
    }
    return true;
}

ConstBytes Core::dma_view(GuestAddr addr, std::size_t size) {
    if (size == 0 || addr.value + size < addr.value)
        return {};
    work.charge(2);
    const ConstBytes view = host.dma_view(addr, size);
    if (view.size() != size)
        return {};
    ++stats.dma_reads;
    stats.dma_read_bytes += size;
    stats.pcie_reads += pieces(addr, size, kMaxReadRequest);
    return view;
}

bool Core::dma_write(GuestAddr addr, ConstBytes src) {
    work.charge(2 + src.size() / kBytesCopied);
    ++stats.dma_writes;
    stats.dma_write_bytes += src.size();
    stats.pcie_writes += pieces(addr, src.size(), kMaxPayload);
    if (addr.value + src.size() < addr.value || !host.dma_write(addr, src)) {
        ++stats.dma_errors;
        return false;
    }
    return true;
}

bool Core::take_memory(std::size_t bytes, MemoryBudget::Share &share) {
    if (budget.take(bytes, share))
        return true;
    work.charge(graveyard.dig(kDigForMemory));
    return budget.take(bytes, share);
}

void Core::msix_raise(unsigned vector) {
    work.charge(kCallOfHost);
    host.msix_raise(vector);
}

void Core::wire_tx(ConstBytes frame) {
    work.charge(kCallOfHost + frame.size() / kBytesCopied);
    host.wire_tx(frame);
}

// NOLINTNEXTLINE(cert-dcl50-cpp): likewise
void Core::log(LogLevel level, const char *fmt, ...) {
    work.charge(kCallOfHost);
    va_list args;
    va_start(args, fmt);
    std::array<char, 512> buf{};
    const int n = std::vsnprintf(buf.data(), buf.size(), fmt, args);
    va_end(args);
    if (n >= 0)
        host.log(level, buf.data());
}

void Core::mmio_read(std::uint64_t offset, Bytes data) {
    const ReentrancyGuard::Call call(guard_, work);
    std::fill(data.begin(), data.end(), 0);
    if (call.outermost() && offset < kMsixTableOffset)
        iseg.read(offset, data);
}

std::uint32_t Core::vsc_read(unsigned offset) {
    const ReentrancyGuard::Call call(guard_, work);
    return call.outermost() ? vsc.read(offset) : 0;
}

void Core::vsc_write(unsigned offset, std::uint32_t value) {
    const ReentrancyGuard::Call call(guard_, work);
    if (call.outermost())
        vsc.write(offset, value);
}

void Core::mmio_write(std::uint64_t offset, ConstBytes data) {
    const ReentrancyGuard::Call call(guard_, work);
    if (data.empty())
        return;
    if (!call.outermost()) {
        log(LogLevel::kWarning, "register %#lx written by the device's own doing: ignored",
            static_cast<unsigned long>(offset));
        return;
    }
    if (offset < kMsixTableOffset) {
        iseg.write(offset, data);
        return;
    }
    const std::uint64_t page = offset >> kUarShift;
    if (page < kFirstUar || uars.find(page) == nullptr) {
        if (config.trace)
            trace(format("write to unassigned UAR page %#lx ignored",
                         static_cast<unsigned long>(page)));
        return;
    }
    const unsigned in_page = offset & 0xfff;

    // A 64-bit doorbell may come as two 32-bit writes, upper half first.
    const bool wide = in_page == kCqDoorbell || in_page == kCqDoorbell + 4 ||
                      (in_page >= kBlueFlameOffset && in_page < 0x1000);
    if (wide && data.size() == 4) {
        if (in_page % 8 == 0) {
            if (half_doorbells_.size() >= kMaxHalfDoorbells)
                half_doorbells_.clear();
            half_doorbells_[offset] = load_be<std::uint32_t>(data.data());
            return;
        }
        auto first = half_doorbells_.find(offset - 4);
        if (first == half_doorbells_.end())
            return;
        std::array<std::uint8_t, 8> both{};
        store_be<std::uint32_t>(both.data(), first->second);
        std::memcpy(both.data() + 4, data.data(), 4);
        half_doorbells_.erase(first);
        uar_write(page, in_page - 4, both);
        return;
    }
    uar_write(page, in_page, data);
}

void Core::uar_write(std::uint32_t uar, unsigned offset, ConstBytes data) {
    if (offset == kEqDoorbellArm || offset == kEqDoorbell) {
        if (data.size() >= 4)
            events.doorbell(load_be<std::uint32_t>(data.data()), offset == kEqDoorbellArm, uar);
        return;
    }
    if (data.size() < 8)
        return;
    if (offset == kCqDoorbell) {
        completions.doorbell(load_be<std::uint64_t>(data.data()), uar);
        return;
    }
    // Only the start of a BlueFlame buffer is a doorbell: the rest of a WQE that was copied in
    // small pieces is fetched from memory.
    const unsigned half_size = (1U << kLogBlueFlameSize) / 2;
    if (offset >= kBlueFlameOffset && (offset - kBlueFlameOffset) % half_size == 0)
        tx.doorbell(data, uar);
}

void Core::update_timer() {
    const std::uint64_t next = std::min(completions.next_deadline(), events.next_deadline());
    host.arm_timer(std::min({next, port.next_deadline(), commands.next_deadline()}));
}

void Core::run() {
    const ReentrancyGuard::Call call(guard_, work);
    if (!call.outermost()) {
        kick();
        return;
    }
    // Also when something is thrown for want of memory: the device goes on with what is left.
    const struct Turn {
        Core &core;
        ~Turn() {
            if (core.commands.pending() || core.rx.pending() || core.tx.pending() ||
                !core.graveyard.empty())
                core.kick();
            core.update_timer();
        }
    } turn{*this};
    if (std::exchange(reset_due_, false))
        reset();
    if (const auto up = std::exchange(link_due_, std::nullopt))
        port.set_carrier(*up);
    port.run();
    events.run_deferred();
    commands.run_deferred();
    completions.run_moderation();
    commands.run();
    rx.run();
    tx.run();
    if (work.left())
        work.charge(graveyard.dig(WorkMeter::kPerCall - work.done()));
}

bool Core::wire_rx(ConstBytes frame) {
    const ReentrancyGuard::Call call(guard_, work);
    const bool taken = rx.receive(frame, !call.outermost());
    update_timer();
    return taken;
}

void Core::set_link(bool up) {
    const ReentrancyGuard::Call call(guard_, work);
    if (call.outermost()) {
        port.set_carrier(up);
        return;
    }
    link_due_ = up;
    kick();
}

void Core::reset_function() {
    const ReentrancyGuard::Call call(guard_, work);
    if (call.outermost()) {
        reset();
        return;
    }
    reset_due_ = true;
    kick();
}

bool Core::inject_fault(std::string_view spec, std::string &error) {
    const ReentrancyGuard::Call call(guard_, work);
    if (!call.outermost()) {
        error = "the device is at work";
        return false;
    }
    const bool ok = faults.inject(spec, error);
    update_timer();
    return ok;
}

void Core::reset_objects() {
    tx.reset();
    rx.reset();
    steering.reset();
    completions.reset();
    const auto bury_all = [this](auto &...tables) { (graveyard.bury(tables.take_all()), ...); };
    bury_all(flow_counters, flow_tables, rqts, tirs, tises, sqs, rqs, cqs, mkeys, eqs);
    events.reset();
    quic.reset();
    bury_all(q_counters, transport_domains, pds, uars);
    pages.forget_objects();
    half_doorbells_.clear();
    hca_initialized = false;
    // What drivers have is gone at once, what a guest may pile up as time goes by.
    work.charge(graveyard.dig(kDigPerReset));
    if (!graveyard.empty())
        kick();
}

void Core::reset() {
    const bool in_use = commands.queue_address().value != 0;
    reset_objects();
    commands.reset();
    pages.reset();
    caps.reset();
    hca_enabled = false;
    issi = 0;
    iseg.reset();
    // A driver that was not asked finds its function disabled, and can recover.
    if (in_use)
        iseg.set_nic_interface(NicInterface::kDisabled);
    vsc.reset();
    Vport fresh;
    fresh.permanent_mac = config.mac;
    fresh.min_inline = config.min_inline;
    vport = fresh;
    port.reset();
    update_timer();
}

// --- public face -------------------------------------------------------------------------------

Device::Device(Host &host, const Config &config) : core_(std::make_unique<Core>(host, config)) {
    core_->reset();
}
Device::~Device() = default;

void Device::mmio_read(std::uint64_t offset, std::span<std::uint8_t> data) {
    core_->mmio_read(offset, data);
}
void Device::mmio_write(std::uint64_t offset, std::span<const std::uint8_t> data) {
    core_->mmio_write(offset, data);
}
std::uint32_t Device::vsc_read(unsigned offset) { return core_->vsc_read(offset); }
void Device::vsc_write(unsigned offset, std::uint32_t value) { core_->vsc_write(offset, value); }
void Device::run() { core_->run(); }
bool Device::can_receive() const { return core_->rx.can_receive(); }
bool Device::wire_rx(std::span<const std::uint8_t> frame) { return core_->wire_rx(frame); }
void Device::set_link(bool up) { core_->set_link(up); }
void Device::reset() { core_->reset_function(); }
bool Device::inject_fault(std::string_view spec, std::string &error) {
    return core_->inject_fault(spec, error);
}
const ModelStats &Device::stats() const {
    core_->stats.pages_held = core_->pages.held();
    return core_->stats;
}

std::string Device::describe() const {
    const Core &c = *core_;
    const ModelStats &s = stats();
    std::string text =
        format("commands %lu failed %lu unknown %lu delivery-errors %lu dma-errors %lu\n"
               "wqes %lu tx %lu rx %lu dropped %lu loopback %lu error-cqes %lu events %lu "
               "interrupts %lu\n",
               s.commands, s.commands_failed, s.commands_unknown, s.delivery_errors, s.dma_errors,
               s.wqes, s.tx_frames, s.rx_frames, s.rx_dropped, s.loopback_frames, s.error_cqes,
               s.events, s.interrupts);
    text += format("pages %zu uars %zu pds %zu eqs %zu cqs %zu mkeys %zu sqs %zu rqs %zu tises %zu "
                   "tirs %zu rqts %zu flow-tables %zu\n",
                   c.pages.held(), c.uars.size(), c.pds.size(), c.eqs.size(), c.cqs.size(),
                   c.mkeys.size(), c.sqs.size(), c.rqs.size(), c.tises.size(), c.tirs.size(),
                   c.rqts.size(), c.flow_tables.size());
    text += format("dma reads %lu read-bytes %lu pcie-reads %lu writes %lu write-bytes %lu "
                   "pcie-writes %lu\n",
                   s.dma_reads, s.dma_read_bytes, s.pcie_reads, s.dma_writes, s.dma_write_bytes,
                   s.pcie_writes);
    text += format("work most %zu of %zu in a call\n", c.work.most(), WorkMeter::kLimit);
    text += c.quic.describe();
    for (const auto &[op, n] : c.commands.unknown())
        text += format("not modelled: command %s (%#x) %lu times\n", opcode_name(op), op,
                       static_cast<unsigned long>(n));
    for (const auto &[reg, n] : c.commands.unknown_registers())
        text += format("not modelled: register %s (%#x) %lu times\n", register_name(reg), reg,
                       static_cast<unsigned long>(n));
    return text;
}

} // namespace connectx
