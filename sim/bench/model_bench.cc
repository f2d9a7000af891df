// SPDX-License-Identifier: GPL-2.0
//
// How fast the model protects and segments, in a host of its own: packets and bits per second of
// one processor, beside what Intel IPsec-MB alone makes of the same bytes. The model does more than
// the library: it fetches the WQE and the payload from guest memory, cuts it into frames, writes
// headers, protects them, sums IP and UDP, counts, and hands each frame to a wire (that throws it
// away).
#include "core.h"
#include "mini_driver.h"
#include "packets.h"
#include "quic_engine.h"

#include <benchmark/benchmark.h>
#include <intel-ipsec-mb.h>
#include <quic_reference.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

namespace connectx::test {
namespace {

using quic_test::Cipher;
using quic_test::PacketKeys;

constexpr std::size_t kTag = MLX5_QUIC_TAG_LEN;
constexpr std::size_t kMaxBatch = 65000; // bytes that one send of Linux has at most
constexpr unsigned kMaxPackets = 64;     // likewise, packets
constexpr unsigned kTagOfSa = 7;
constexpr quic_test::PacketShape kShape{.cid_length = 8, .pn_length = 4};

/// Packets of `size` bytes, tags included, as Linux sends them in one go.
std::size_t batch_packets(std::size_t size) {
    return std::clamp<std::size_t>(kMaxBatch / size, 1, kMaxPackets);
}

Frame plaintext_batch(std::size_t size, std::size_t packets) {
    Frame batch;
    for (std::size_t i = 0; i < packets; ++i) {
        const Frame packet = quic_test::make_packet(kShape, i, size - kTag);
        batch.insert(batch.end(), packet.begin(), packet.end());
        batch.insert(batch.end(), kTag, 0);
    }
    return batch;
}

/// A function with one queue, one SA, and one WQE that is posted again and again.
class Sender : public MiniDriver {
  public:
    Sender(Cipher cipher, std::size_t size, std::size_t packets, bool v6)
        : MiniDriver(Config{}, 16U << 20) {
        host.keep_frames = false;
        open();
        cq_ = create_cq(8);
        sq_ = create_sq(cq_, 6);
        const PacketKeys keys = quic_test::keys_of_seed(cipher, 1);
        const std::uint32_t sa =
            create_sa(static_cast<unsigned>(cipher), keys.key, keys.iv, keys.hp, kTagOfSa);

        Flow flow;
        flow.v6 = v6;
        const Frame frame = make_frame(flow, Frame(packets * size));
        EthOptions options;
        options.cs_flags = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM;
        options.mss = packets > 1 ? static_cast<unsigned>(size) : 0;
        options.inline_header = {frame.begin(),
                                 frame.begin() + static_cast<std::ptrdiff_t>(header_size(flow))};
        Message segments = eth_segments(options, {});
        Message quic(sizeof(mlx5_wqe_quic_seg));
        store_be<std::uint32_t>(quic.data() + 8,
                                static_cast<std::uint32_t>(kShape.pn_offset() << 21) | sa);
        store_be<std::uint32_t>(quic.data() + 12, kTagOfSa);
        segments.insert(segments.end(), quic.begin(), quic.end());
        const Message data = eth_segments({}, {plaintext_batch(size, packets)});
        segments.insert(segments.end(), data.begin() + 16, data.end());
        segments_ = std::move(segments);
        opcode_ = static_cast<unsigned>(MLX5_OPC_MOD_QUIC) << 24 |
                  (packets > 1 ? MLX5_OPCODE_LSO : MLX5_OPCODE_SEND);
    }

    void send() { post(sq_, opcode_, segments_); }
    /// Takes the completion; throws when it is missing or an error.
    void complete() {
        const mlx5_cqe64 *cqe = poll(cq_);
        if (cqe == nullptr || cqe->op_own >> 4 != MLX5_CQE_REQ)
            throw std::runtime_error("no completion");
    }

  private:
    TestCq cq_;
    TestSq sq_;
    Message segments_;
    unsigned opcode_ = 0;
};

void count(benchmark::State &state, std::size_t size, std::size_t packets) {
    const auto total = static_cast<double>(state.iterations()) * static_cast<double>(packets);
    state.counters["packets"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
    state.counters["bits"] =
        benchmark::Counter(total * static_cast<double>(size) * 8, benchmark::Counter::kIsRate);
}

void model(benchmark::State &state, Cipher cipher, std::size_t size, std::size_t packets) {
    Sender sender(cipher, size, packets, false);
    std::size_t bytes = 0;
    sender.host.on_wire_tx = [&](std::span<const std::uint8_t> frame) { bytes += frame.size(); };
    for (auto _ : state) {
        sender.send();
        sender.complete();
    }
    constexpr std::size_t kHeaders = 14 + 20 + 8;
    if (bytes != static_cast<std::size_t>(state.iterations()) * packets * (size + kHeaders))
        state.SkipWithError("frames are missing");
    count(state, size, packets);
}

/// The same with a host of its own in each of the benchmark's threads, as two functions on two
/// processors would be. Rates are per second of the clock on the wall.
void model_threads(benchmark::State &state, std::size_t size, std::size_t packets) {
    Sender sender(Cipher::kAes128Gcm, size, packets, false);
    std::size_t frames = 0;
    sender.host.on_wire_tx = [&](std::span<const std::uint8_t>) { ++frames; };
    for (auto _ : state) {
        sender.send();
        sender.complete();
    }
    if (frames != static_cast<std::size_t>(state.iterations()) * packets)
        state.SkipWithError("frames are missing");
    count(state, size, packets);
}

struct FreeManager {
    void operator()(IMB_MGR *manager) const { free_mb_mgr(manager); }
};

/// The AEAD over the same packets in place, and nothing else.
void library(benchmark::State &state, bool aes256, std::size_t size, std::size_t packets) {
    const std::unique_ptr<IMB_MGR, FreeManager> manager(alloc_mb_mgr(0));
    init_mb_mgr_auto(manager.get(), nullptr);
    const PacketKeys keys =
        quic_test::keys_of_seed(aes256 ? Cipher::kAes256Gcm : Cipher::kAes128Gcm, 1);
    gcm_key_data schedule;
    if (aes256)
        IMB_AES256_GCM_PRE(manager.get(), keys.key.data(), &schedule);
    else
        IMB_AES128_GCM_PRE(manager.get(), keys.key.data(), &schedule);
    const auto seal = aes256 ? manager->gcm256_enc : manager->gcm128_enc;
    Frame batch = plaintext_batch(size, packets);
    const std::size_t header = kShape.pn_offset() + kShape.pn_length;
    for (auto _ : state) {
        for (std::size_t i = 0; i < packets; ++i) {
            std::uint8_t *packet = batch.data() + i * size;
            auto nonce = keys.iv;
            nonce.back() ^= static_cast<std::uint8_t>(i);
            gcm_context_data context;
            seal(&schedule, &context, packet + header, packet + header, size - header - kTag,
                 nonce.data(), packet, header, packet + size - kTag, kTag);
        }
        benchmark::ClobberMemory();
    }
    count(state, size, packets);
}

void register_all() {
    for (const std::size_t size : {64U, 1200U, 1500U, 9000U}) {
        const std::size_t packets = batch_packets(size);
        const std::string suffix = "/" + std::to_string(size);
        // Beside each other, so that the machine's speed is that of the same moment.
        benchmark::RegisterBenchmark(
            ("library_aes_128_gcm" + suffix).c_str(),
            [=](benchmark::State &state) { library(state, false, size, packets); });
        benchmark::RegisterBenchmark(
            ("model_aes_128_gcm" + suffix).c_str(),
            [=](benchmark::State &state) { model(state, Cipher::kAes128Gcm, size, packets); });
        benchmark::RegisterBenchmark(
            ("library_aes_256_gcm" + suffix).c_str(),
            [=](benchmark::State &state) { library(state, true, size, packets); });
        benchmark::RegisterBenchmark(
            ("model_aes_256_gcm" + suffix).c_str(),
            [=](benchmark::State &state) { model(state, Cipher::kAes256Gcm, size, packets); });
        benchmark::RegisterBenchmark(
            ("model_single_aes_128_gcm" + suffix).c_str(),
            [=](benchmark::State &state) { model(state, Cipher::kAes128Gcm, size, 1); });
        benchmark::RegisterBenchmark(("model_chacha20_poly1305" + suffix).c_str(),
                                     [=](benchmark::State &state) {
                                         model(state, Cipher::kChaCha20Poly1305, size, packets);
                                     });
    }
    // What the machine gives two processors is what the library alone gets of it.
    for (const int threads : {1, 2}) {
        benchmark::RegisterBenchmark(
            "cores/1200",
            [](benchmark::State &state) { model_threads(state, 1200, batch_packets(1200)); })
            ->Threads(threads)
            ->UseRealTime();
        benchmark::RegisterBenchmark(
            "library_cores/1200",
            [](benchmark::State &state) { library(state, false, 1200, batch_packets(1200)); })
            ->Threads(threads)
            ->UseRealTime();
    }
}

} // namespace
} // namespace connectx::test

int main(int argc, char **argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 2;
    connectx::test::register_all();
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
