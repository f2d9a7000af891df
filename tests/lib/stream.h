// SPDX-License-Identifier: GPL-2.0
//
// One sender in host a, one receiver in host b, and packets in every form of send under keys that
// come and go. For tests that lose packets on purpose: it keeps books instead of expecting each
// packet.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "raw_netlink.h"
#include "world.h"

namespace quic_test {

// Addresses of host b that more than one way may lead to: on its loopback device.
inline constexpr const char *kStreamAddress4 = "10.2.0.1";
inline constexpr const char *kStreamAddress6 = "fd02::1";

// All keys that the sender ever had are kept. Generation g uses the packet numbers from
// g * kNumbersOfGeneration on.
class Stream {
  public:
    // @netlink: some of the SAs are made over netlink instead of by the socket.
    Stream(World &world, unsigned id, std::mt19937_64 &random, bool netlink = false);

    void open();
    // SAs of the socket go with it, those made over netlink stay.
    void close();

    // New keys, as a key update has them; the old SA stays until somebody deletes it.
    void next_generation();
    // Deletes the SA in use and goes on with new keys.
    void delete_sa();
    // Deletes all SAs but the @keep newest.
    void retire(std::size_t keep);

    // One send of @most packets or fewer, form and size at random. Packets that were taken.
    unsigned send_some(unsigned most);
    // Takes what has arrived; how many.
    unsigned drain();
    // Ends a spell: what has not arrived is lost. How many packets.
    std::uint64_t settle_books();

    std::uint64_t arrived = 0; // as of settle_books()
    std::uint64_t duplicates = 0;
    std::uint64_t wrong = 0;
    std::uint64_t plaintext = 0;
    std::uint64_t nonces_reused = 0;
    std::map<int, unsigned> refusals;
    // What was done, by name.
    std::map<std::string, std::uint64_t> done;

  private:
    static constexpr std::uint64_t kNumbersOfGeneration = 1ULL << 24;
    struct Sent {
        std::size_t size = 0;
        std::uint64_t digest = 0; // of the ciphertext; 0: has not arrived
    };
    struct Sa {
        std::uint64_t generation = 0;
        std::uint32_t index = 0;
        bool netlink = false;
    };

    void judge(const Bytes &wire);
    int remove(const Sa &sa);
    void reap();

    World &world_;
    unsigned id_;
    std::mt19937_64 &random_;
    std::unique_ptr<RawNetlink> netlink_;
    UniqueFd socket_;
    UniqueFd receiver_;
    std::uint16_t port_ = 0;
    std::vector<PacketKeys> keys_;
    std::deque<Sa> sas_; // the last is in use
    std::uint64_t next_pn_ = 0;
    std::unordered_map<std::uint64_t, Sent> sent_;
    std::vector<Bytes> data_; // of zero-copy sends, until they are complete
    std::uint64_t incomplete_ = 0;
    bool orphaned_ = false; // completions that nobody will tell of
};

// Counters of both hosts that count packets which do not arrive, by name.
std::map<std::string, std::uint64_t> loss_counters(const World &world);
// How much those of @after are above @before; @which gets their names.
std::uint64_t grown(const std::map<std::string, std::uint64_t> &before,
                    const std::map<std::string, std::uint64_t> &after, std::string &which);

} // namespace quic_test
