// SPDX-License-Identifier: GPL-2.0
#include "model_end.h"

#include "packets.h"

#include <charconv>
#include <chrono>

namespace connectx::dpdk {

namespace {

constexpr std::size_t kMemory = 32U << 20;
constexpr std::size_t kMaxBatchBytes = 65000; // what one send of Linux has at most
constexpr std::size_t kMaxBatch = 64;
constexpr unsigned kSaTag = 7;
constexpr unsigned kLogReceive = 9;
constexpr std::size_t kReceiveBuffer = 2048;

} // namespace

std::optional<Spoil> parse_spoil(const std::string &text) {
    using enum Spoil::What;
    const auto colon = text.find(':');
    if (colon == std::string::npos)
        return std::nullopt;
    const std::string name = text.substr(0, colon);
    Spoil spoil;
    if (name == "lose")
        spoil.what = kLose;
    else if (name == "corrupt")
        spoil.what = kCorrupt;
    else if (name == "swap")
        spoil.what = kSwap;
    else if (name == "duplicate")
        spoil.what = kDuplicate;
    else
        return std::nullopt;
    const char *end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + colon + 1, end, spoil.every);
    if (error != std::errc{} || at != end || spoil.every == 0)
        return std::nullopt;
    return spoil;
}

ModelEnd::ModelEnd(Port &wire, const Spoil &spoil)
    : driver_(Config{}, kMemory), wire_(wire), spoil_(spoil) {
    driver_.host.keep_frames = false;
    driver_.open();
    driver_.host.on_wire_tx = [this](std::span<const std::uint8_t> frame) { on_wire(frame); };
}

void ModelEnd::tick() {
    using namespace std::chrono;
    driver_.host.now_ns = static_cast<std::uint64_t>(
        duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
    if (driver_.host.deadline <= driver_.host.now_ns)
        driver_.dev.run();
    driver_.settle();
    for (const std::string &line : driver_.host.logs)
        std::fprintf(stderr, "model: %s\n", line.c_str());
    driver_.host.logs.clear();
    driver_.host.interrupts.clear();
}

void ModelEnd::require_completion(test::TestCq &cq) {
    const mlx5_cqe64 *cqe = driver_.poll(cq);
    if (cqe == nullptr || cqe->op_own >> 4 != MLX5_CQE_REQ)
        throw std::runtime_error("a send WQE did not complete, or with an error");
}

void ModelEnd::on_wire(std::span<const std::uint8_t> frame) {
    using enum Spoil::What;
    constexpr std::size_t kCovered = kEthernet + kIp;
    constexpr std::size_t kStep = 61;
    ++frames_;
    if (!held_.empty()) {
        wire_.send(frame);
        wire_.send(held_);
        held_.clear();
        return;
    }
    if (spoil_.what == kNothing || frames_ % spoil_.every != 0) {
        wire_.send(frame);
        return;
    }
    std::vector<std::uint8_t> copy(frame.begin(), frame.end());
    switch (spoil_.what) {
    case kCorrupt:
        // Another byte each time, of what UDP's checksum covers.
        copy[kCovered + frames_ / spoil_.every * kStep % (copy.size() - kCovered)] ^= 0x04;
        wire_.send(copy);
        break;
    case kSwap:
        held_ = std::move(copy);
        break;
    case kDuplicate:
        wire_.send(copy);
        wire_.send(copy);
        break;
    case kNothing:
    case kLose:
        break;
    }
}

QuicSender::QuicSender(Port &wire, const Traffic &traffic, const Spoil &spoil)
    : ModelEnd(wire, spoil), traffic_(traffic),
      batch_(std::clamp<std::size_t>(kMaxBatchBytes / traffic.size, 1, kMaxBatch)) {
    cq_ = driver_.create_cq(8);
    sq_ = driver_.create_sq(cq_, 6);
    const quic_test::PacketKeys keys = traffic_keys(traffic);
    const std::uint32_t sa =
        driver_.create_sa(static_cast<unsigned>(keys.cipher), keys.key, keys.iv, keys.hp, kSaTag);

    const test::Flow flow;
    const test::Frame frame = make_frame(flow, test::Frame(batch_ * traffic.size));
    test::MiniDriver::EthOptions options;
    options.mss = static_cast<unsigned>(traffic.size);
    options.inline_header = {frame.begin(), frame.begin() + kHeaders};
    segments_ = driver_.eth_segments(options, {});
    quic_at_ = segments_.size();
    test::Message tail(sizeof(mlx5_wqe_quic_seg) + sizeof(mlx5_wqe_data_seg));
    store_be<std::uint32_t>(
        &tail[8], static_cast<std::uint32_t>(kPnOffset << MLX5_WQE_QUIC_PN_OFFSET_SHIFT | sa));
    store_be<std::uint32_t>(&tail[12], kSaTag);
    buffer_ = driver_.host.alloc(batch_ * traffic.size);
    store_be<std::uint32_t>(&tail[20], driver_.lkey);
    store_be<std::uint64_t>(&tail[24], buffer_);
    segments_.insert(segments_.end(), tail.begin(), tail.end());
    for (std::size_t i = 0; i < batch_; ++i)
        fill_packet(driver_.host.span(buffer_ + i * traffic.size, traffic.size - kTag));
}

void QuicSender::send_batch() {
    const std::size_t count = std::min<std::uint64_t>(batch_, traffic_.packets - posted_);
    if (count == 0)
        return;
    const std::uint64_t pn = kFirstPn + posted_;
    for (std::size_t i = 0; i < count; ++i)
        number_packet(driver_.host.span(buffer_ + i * traffic_.size, traffic_.size - kTag), pn + i);
    constexpr std::uint64_t kForm = MLX5_WQE_QUIC_FORM_INDEX;
    store_be<std::uint64_t>(&segments_[quic_at_], kForm << MLX5_WQE_QUIC_FORM_SHIFT | pn);
    store_be<std::uint32_t>(&segments_[quic_at_ + 16],
                            static_cast<std::uint32_t>(count * traffic_.size));
    tick();
    driver_.post(sq_, static_cast<unsigned>(MLX5_OPC_MOD_QUIC) << 24 | MLX5_OPCODE_LSO, segments_);
    require_completion(cq_);
    posted_ += count;
}

Forwarder::Forwarder(Port &wire, const Spoil &spoil) : ModelEnd(wire, spoil) {
    rx_cq_ = driver_.create_cq(kLogReceive + 1);
    tx_cq_ = driver_.create_cq(8);
    sq_ = driver_.create_sq(tx_cq_, 6);
    rq_ = driver_.create_rq(rx_cq_, {.log_size = kLogReceive, .buffer_size = kReceiveBuffer});
    driver_.post(rq_, 1U << kLogReceive);
    driver_.steer_all_to(driver_.create_tir(rq_.id));
}

bool Forwarder::turn() {
    tick();
    const Packets packets = wire_.receive();
    for (rte_mbuf *packet : packets) {
        if (rte_pktmbuf_linearize(packet) == 0)
            driver_.dev.wire_rx({rte_pktmbuf_mtod(packet, const std::uint8_t *), packet->data_len});
        rte_pktmbuf_free(packet);
    }
    driver_.settle();

    bool any = !packets.empty();
    while (const mlx5_cqe64 *cqe = driver_.poll(rx_cq_)) {
        if (cqe->op_own >> 4 != MLX5_CQE_RESP_SEND)
            throw std::runtime_error("the receive queue is in error");
        any = true;
        const std::size_t index = be16_to_cpu(cqe->wqe_counter) & rq_.ring.mask();
        test::Message segments(16 + sizeof(mlx5_wqe_data_seg));
        store_be<std::uint32_t>(&segments[16], be32_to_cpu(cqe->byte_cnt));
        store_be<std::uint32_t>(&segments[20], driver_.lkey);
        store_be<std::uint64_t>(&segments[24], rq_.buffers[index]);
        driver_.post(sq_, MLX5_OPCODE_SEND, segments);
        require_completion(tx_cq_);
        driver_.post(rq_, 1);
        ++forwarded_;
    }
    wire_.flush();
    return any;
}

} // namespace connectx::dpdk
