// SPDX-License-Identifier: GPL-2.0
//
// The QUIC offload as docs/hardware-interface.md has it: SA database, counters, and what a transmit
// WQE with a QUIC segment asks for. The layouts are those of drivers/net/mlx5-quic/quic_ifc.h; the
// cryptography is in quic_engine.h.
#pragma once

#include "quic_engine.h"

#include <connectx/device.h>
#include <connectx/ifc.h>

#include <quic_ifc.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>

namespace connectx {

class Core;
struct Command;
struct CommandStatus;
struct PacketInfo;

/// Where a cipher stands in Config::quic_ciphers and in the interface.
const char *quic_cipher_name(QuicCipher cipher);
std::optional<QuicCipher> quic_cipher_of(unsigned mlx5_quic_cipher);

/// A security association in the device's database.
struct QuicSa {
    QuicKeys keys;
    std::uint32_t pd = 0;
    std::uint32_t tag = 0;
    std::unique_ptr<QuicKeySchedule> schedule; ///< made when the SA is first used
};

/// SAs by index. Takes memory for those that are there, and for the numbers of those that were.
class QuicSaDatabase {
  public:
    explicit QuicSaDatabase(std::uint32_t size) : size_(size) {}

    [[nodiscard]] std::uint32_t size() const { return size_; }
    [[nodiscard]] std::size_t installed() const { return sas_.size() - freed_.size(); }
    [[nodiscard]] bool full() const { return installed() >= size_; }
    /// An index that was freed long ago comes before one that was freed lately. Not when full().
    std::uint32_t insert(std::unique_ptr<QuicSa> sa);
    [[nodiscard]] QuicSa *find(std::uint32_t index) const;
    /// The keys are overwritten. The SA must be there.
    void erase(std::uint32_t index);
    void clear() { take_all(); }
    /// Leaves an empty database; the keys are overwritten when the SAs are destroyed.
    std::deque<std::unique_ptr<QuicSa>> take_all();

  private:
    std::uint32_t size_;
    std::deque<std::unique_ptr<QuicSa>> sas_; ///< up to the first index that no SA has had
    std::deque<std::uint32_t> freed_;
};

/// Register MLX5_QUIC_REG_CNT, without what the database knows itself.
struct QuicCounters {
    std::uint64_t tx_index_packets = 0;
    std::uint64_t tx_inline_packets = 0;
    std::uint64_t tx_bytes = 0;
    std::uint64_t drop_stale_sa = 0;
    std::uint64_t drop_pd = 0;
    std::uint64_t drop_headers = 0;
    std::uint64_t drop_short = 0;
    std::uint64_t wqe_errors = 0;
    std::uint64_t sa_created = 0;
    std::uint64_t sa_destroyed = 0;
    std::uint64_t sa_rejected_full = 0;
};

class QuicOffload {
  public:
    QuicOffload(Core &core, const Config &config);

    /// The capability page, and the bit in the general one. Nothing when the offload is off.
    static void fill_capabilities(const Config &config, Bytes general, Bytes quic);

    CommandStatus create(const Command &cmd);
    CommandStatus query(const Command &cmd);
    CommandStatus destroy(const Command &cmd);
    void read_counters(Bytes out) const;
    /// Database and counters are as after INIT_HCA.
    void reset();

    /// What the QUIC segment of one WQE asks for.
    struct Request {
        bool is_inline = false;
        std::uint64_t pn = 0; ///< of the first packet
        std::size_t pn_offset = 0;
        std::uint32_t sa = 0;
        std::uint32_t tag = 0;
        QuicKeys keys; ///< of the inline form
    };
    /// Bytes of the QUIC segment at `offset` of a WQE, keys included; as many as there should be
    /// even if the WQE ends before. 0 when the form is unknown or not supported.
    [[nodiscard]] std::size_t segment_length(ConstBytes wqe, std::size_t offset) const;
    /// Both return the vendor syndrome of what is wrong, 0 if nothing is.
    [[nodiscard]] unsigned parse(ConstBytes wqe, std::size_t offset, Request &request) const;
    [[nodiscard]] static unsigned check_packets(const Request &request, std::size_t packets,
                                                bool lso);

    /// The keys for a WQE's packets, found once per WQE.
    class Job {
      public:
        Job() = default;

      private:
        friend class QuicOffload;
        const Request *request_ = nullptr;
        const QuicKeySchedule *schedule_ = nullptr; ///< null: the packets are dropped
        std::uint64_t *drop_counter_ = nullptr;
        std::unique_ptr<QuicKeySchedule> own_; ///< inline form
    };
    Job start(const Request &request, std::uint32_t pd);
    /// Protects the QUIC packet in a frame that has its headers, `info` being what parse_packet()
    /// says of these. False: the packet is counted as dropped and must not leave.
    bool protect(Job &job, Bytes frame, const PacketInfo &info);
    /// The same for the packets of a WQE that is several, in two steps. seal() has
    /// QuicEngine::seal() work on the frame's QUIC packet, `number` counting from 0 within the WQE;
    /// finish() ends up to QuicEngine::kMaxHeaders that seal() did not drop.
    bool seal(Job &job, Bytes frame, const PacketInfo &info, ConstBytes source,
              std::uint64_t number);
    void finish(const Job &job, std::span<const Bytes> packets);

    void count_wqe_error() { ++counters_.wqe_errors; }
    [[nodiscard]] const QuicCounters &counters() const { return counters_; }
    [[nodiscard]] std::string describe() const;

  private:
    [[nodiscard]] bool supported(QuicCipher cipher) const;

    Core &core_;
    const Config &config_;
    std::unique_ptr<QuicEngine> engine_; ///< null when the offload is off
    QuicSaDatabase sadb_;
    QuicCounters counters_;
};

} // namespace connectx
