// SPDX-License-Identifier: GPL-2.0
//
// A ConnectX-7 Ethernet function, as seen from PCIe and from the wire.
#pragma once

#include <connectx/host.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace connectx {

/// Size of BAR0, which holds initialization segment, MSI-X table and all UARs (bytes).
inline constexpr std::uint64_t kBarSize = 32ULL << 20;
/// Offset of the MSI-X table and pending bits in BAR0 (bytes); the host implements these.
inline constexpr std::uint64_t kMsixTableOffset = 0x2000;
inline constexpr std::uint64_t kMsixPbaOffset = 0x3000;
inline constexpr unsigned kMaxMsixVectors = 128;
inline constexpr unsigned kMaxSadbSize = 1U << 21;
inline constexpr unsigned kQuicAllCiphers = 0xf;
inline constexpr unsigned kMaxMinInline = 3; ///< MLX5_INLINE_MODE_TCP_UDP

/// From names joined by colons ("aes-128-gcm:aes-256-gcm:chacha20-poly1305:aes-128-ccm" are all
/// there are; none: an empty string) to Config::quic_ciphers. False for an unknown name.
bool parse_quic_ciphers(std::string_view text, unsigned &ciphers);

struct Config {
    std::array<std::uint8_t, 6> mac{0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    /// MSI-X vectors, 2 ..  kMaxMsixVectors: one for asynchronous events, one per channel.
    unsigned msix_vectors = 33;
    /// Limit for the number of SQs and RQs each, rounded up to a power of two.
    unsigned max_queues = 1024;
    /// The QUIC offload of docs/hardware-interface.md, and what of it there is.
    bool quic = true;
    /// Size of the QUIC SA database in entries, up to kMaxSadbSize; 0: no index form.
    unsigned sadb_size = 65536;
    /// Keys in the WQE.
    bool quic_inline = true;
    /// Batches of packets in one WQE.
    bool quic_lso = true;
    /// Bit mask, see parse_quic_ciphers().
    unsigned quic_ciphers = kQuicAllCiphers;
    /// The capabilities of the other cryptographic offloads. No key of theirs finds room, so that
    /// drivers prepare their queues for them and then do the work themselves.
    bool ipsec = false;
    bool tls = false;
    bool macsec = false;
    /// Headers that a WQE must have inline, enum mlx5_inline_modes; 0 for none.
    unsigned min_inline = 0;
    /// Log each command and WQE, decoded by name, at LogLevel::kTrace.
    bool trace = false;
};

/// Counters of the model itself, for tests and for people who look for gaps in it.
struct ModelStats {
    std::uint64_t commands = 0;         ///< commands executed
    std::uint64_t commands_failed = 0;  ///< answered with a status other than OK
    std::uint64_t commands_unknown = 0; ///< opcode or register not modelled
    std::uint64_t delivery_errors = 0;  ///< malformed command descriptors or mailboxes
    std::uint64_t dma_errors = 0;       ///< accesses the host refused
    std::uint64_t wqes = 0;             ///< send WQEs executed
    std::uint64_t tx_frames = 0;        ///< frames put on the wire
    std::uint64_t rx_frames = 0;        ///< frames taken from the wire
    std::uint64_t rx_dropped = 0;       ///< of these, not delivered to any queue
    std::uint64_t loopback_frames = 0;  ///< frames looped back inside the device
    std::uint64_t error_cqes = 0;
    std::uint64_t events = 0; ///< EQEs written
    std::uint64_t interrupts = 0;
    std::uint64_t pages_held = 0; ///< 4 KiB pages the driver has given and not yet got back

    /// What the device does on the bus, refused accesses too. A PCIe read is a memory read request
    /// of at most 512 bytes, a PCIe write one of at most 256, neither over a boundary of that size:
    /// what common systems set (MRRS, MPS).
    std::uint64_t dma_reads = 0;
    std::uint64_t dma_read_bytes = 0;
    std::uint64_t pcie_reads = 0;
    std::uint64_t dma_writes = 0;
    std::uint64_t dma_write_bytes = 0;
    std::uint64_t pcie_writes = 0;
};

class Core;

/// One call at a time. What the host does for a call (see Host) may lead back here, as a guest can
/// aim DMA, interrupt messages or the frames of a second adapter at this one. Such an inner call
/// changes nothing that the outer one works at: registers and the vendor-specific capability read
/// as zero, writes to them are ignored, a frame waits, set_link() and reset() take effect in the
/// next run(), which is asked for, and inject_fault() fails.
class Device {
  public:
    Device(Host &host, const Config &config);
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
    ~Device();

    /// BAR0 access, `offset` + size within kBarSize. Data is in bus byte order, as memory is.
    void mmio_read(std::uint64_t offset, std::span<std::uint8_t> data);
    void mmio_write(std::uint64_t offset, std::span<const std::uint8_t> data);

    /// The vendor-specific PCI capability; `offset` from its start, 32-bit host byte order.
    [[nodiscard]] std::uint32_t vsc_read(unsigned offset);
    void vsc_write(unsigned offset, std::uint32_t value);

    /// Does all work that is due; to be called when the host was asked for it.
    void run();

    /// False while as many frames as the port has room for wait for a call that is under way; the
    /// frame should be kept and offered again after Host::rx_ready(). wire_rx() may be called all
    /// the same.
    [[nodiscard]] bool can_receive() const;
    /// A frame without FCS has arrived. False: it was dropped because there was no room. For want
    /// of a receive buffer a frame is dropped too, but counted by its queue.
    bool wire_rx(std::span<const std::uint8_t> frame);
    /// The cable was plugged or pulled.
    void set_link(bool up);

    /// Function-level or fundamental reset: everything but configuration and wire counters is lost.
    void reset();

    /// Arms or triggers a fault; see docs/connectx-model.md for the language. On failure returns
    /// false and says why in `error`.
    bool inject_fault(std::string_view spec, std::string &error);

    [[nodiscard]] const ModelStats &stats() const;
    /// Human-readable state: objects in use, counters, commands not modelled.
    [[nodiscard]] std::string describe() const;

    Core &core() { return *core_; }

  private:
    std::unique_ptr<Core> core_;
};

} // namespace connectx
