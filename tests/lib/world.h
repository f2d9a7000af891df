// SPDX-License-Identifier: GPL-2.0
//
// Two hosts (network namespaces) with a wire (veth) between them, listeners on every device, and a
// flow of protected packets from one to the other in every form of send.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "loopback.h"
#include "sniffer.h"

namespace quic_test {

// What the wire between the hosts is made of.
enum class Wire {
    kVeth,                  // no offload: protected in software before IP
    kOffload,               // netdevsim with the offload and UDP segmentation
    kOffloadNoSegmentation, // netdevsim with the offload alone: the stack segments batches
    kConnectx, // two devices of the machine with a real wire between them, as tests/nic/guest has
};
const char *name(Wire wire);
// Those that a test runs over: the first three, or kConnectx alone where the guest has such devices
// (QUIC_TEST_NIC=NAME,NAME in the environment).
std::vector<Wire> all_wires();

// Counters of `ethtool -S`, by name; absent ones are 0. In the calling thread's namespace.
std::map<std::string, std::uint64_t> ethtool_statistics(const std::string &device);

// Host a has device va, 10.1.1.1 and fd01::1; host b has vb, 10.1.1.2 and fd01::2.
class World {
  public:
    explicit World(Wire wire = Wire::kVeth);
    ~World();
    World(const World &) = delete;
    World &operator=(const World &) = delete;
    Wire wire() const { return wire_; }
    // Takes the devices away from both hosts (not with kVeth).
    void remove_devices();
    // Takes them away and makes new ones, with the same names and addresses.
    void replace_devices();
    // The Ethernet address of a device.
    static std::string mac(const NetNamespace &ns, const std::string &device);
    std::uint64_t count_a(const std::string &name) const;
    // Writes to a file of the simulated device va in debugfs.
    void turn_knob_a(const std::string &knob, const std::string &value) const;
    NetNamespace a;
    NetNamespace b;
    Sniffer &sniffer_a() { return *sniffer_a_; }
    Sniffer &sniffer_b() { return *sniffer_b_; }

    // Listen anew, after devices have been made or plaintext was sent on purpose. What goes out at
    // a device that encrypts is not judged, unless @judge_all.
    void listen(bool judge_all = false);
    // A listener has every zero-copy send of the machine copied, in whichever namespace it is.
    void stop_listening();
    // Adds test failures for plaintext or wrong checksums heard anywhere, and if nothing at all was
    // heard in b (unless @silent).
    void expect_clean(bool silent = false);

  private:
    void make_netdevsim(const NetNamespace &ns, unsigned id, const std::string &device);
    void make_netdevsims();
    void take_connectx();
    void give_back_connectx();

    Wire wire_;
    unsigned first_id_ = 0;     // of the simulated devices, or 0
    bool has_connectx_ = false; // the ConnectX devices are here
    std::unique_ptr<Sniffer> sniffer_a_;
    std::unique_ptr<Sniffer> sniffer_b_;
};

// A sender in one namespace, a receiver in another, and what has been sent and has arrived.
class Flow {
  public:
    // @to: where the receiver is, as seen by the sender; port 0 takes any.
    Flow(const NetNamespace &from_ns, const NetNamespace &to_ns, const Address &to,
         Cipher cipher = Cipher::kAes128Gcm);

    int sender() const { return sender_.get(); }
    int receiver() const { return receiver_.get(); }
    std::uint32_t sa() const { return sa_; }
    const PacketKeys &keys() const { return keys_; }
    const Address &to() const { return to_; }
    static PacketShape shape() { return {.cid_length = 8, .pn_length = 4}; }
    void close_sender() { sender_.reset(); }
    void set_size(std::size_t size) { size_ = size; }

    struct Form {
        bool tag_room = false;
        bool zerocopy = false;
        bool inline_keys = false;
        unsigned packets = 1; // more than 1: GSO
        bool last_shorter = false;
    };
    // Sends single packets until the offloading device has taken one: it gets to know an SA by its
    // first packets.
    void settle(const World &world);
    // Sends the next packets; bytes or -errno. A send that succeeds is recorded.
    ssize_t send_form(const Form &form);
    // All forms, @rounds times; adds a failure for each send that does not succeed.
    void send_all_forms(unsigned rounds = 2, bool gso = true);
    // Waits until every recorded packet has arrived, and adds failures for packets that are
    // missing, twice there (unless allowed), or not what was sent. As many may be missing as host a
    // of @world counts in DropNoKeys, if given: the first packets that software has to protect
    // late, of which the documentation says that they are dropped.
    void expect_all_arrive(bool duplicates_allowed = false, const World *world = nullptr);
    // Takes one datagram; returns whether there was one. Adds a failure if it is none of the
    // flow's.
    bool take_one(std::chrono::milliseconds patience = kPatience);
    // Judges a wire image from elsewhere (another receiver, a sniffer).
    bool is_of_this_flow(ByteView wire);

    std::uint64_t next_pn() const { return next_pn_; }
    // Packets of the sends that succeeded
    std::uint64_t sent() const { return packets_.size(); }
    std::size_t arrived() const { return arrived_.size(); }
    std::uint64_t duplicates() const { return duplicates_; }

  private:
    static constexpr std::uint64_t kFirstPn = (std::uint64_t{3} << 40) + 0xfffffff0;
    Address to_;
    PacketKeys keys_;
    UniqueFd sender_;
    UniqueFd receiver_;
    std::uint32_t sa_ = 0;
    std::size_t size_ = 1184;
    std::uint64_t next_pn_ = kFirstPn;
    std::uint64_t duplicates_ = 0;
    std::map<std::uint64_t, Bytes> packets_;
    std::set<std::uint64_t> arrived_;
    std::set<std::uint64_t> refused_;
};

} // namespace quic_test
