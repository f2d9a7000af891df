// SPDX-License-Identifier: GPL-2.0
#include "world.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <tuple>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

namespace quic_test {

const char *name(Wire wire) {
    switch (wire) {
    case Wire::kVeth:
        return "Veth";
    case Wire::kOffload:
        return "Offload";
    case Wire::kOffloadNoSegmentation:
        return "OffloadNoSegmentation";
    case Wire::kConnectx:
        return "Connectx";
    }
    return "?";
}

std::vector<Wire> all_wires() {
    if (std::getenv("QUIC_TEST_NIC") != nullptr)
        return {Wire::kConnectx};
    return {Wire::kVeth, Wire::kOffload, Wire::kOffloadNoSegmentation};
}

std::map<std::string, std::uint64_t> ethtool_statistics(const std::string &device) {
    std::istringstream lines(command("ethtool -S " + device));
    std::map<std::string, std::uint64_t> out;
    std::string line;
    while (std::getline(lines, line)) {
        const auto colon = line.rfind(':');
        const auto start = line.find_first_not_of(" \t");
        if (colon != std::string::npos && start < colon && colon + 1 < line.size())
            out[line.substr(start, colon - start)] = std::stoull(line.substr(colon + 1));
    }
    return out;
}

namespace {

const std::string kAddressesA =
    "ip addr add 10.1.1.1/24 brd + dev va; ip addr add fd01::1/64 dev va nodad";
const std::string kAddressesB =
    "ip addr add 10.1.1.2/24 brd + dev vb; ip addr add fd01::2/64 dev vb nodad";

// The names that the two devices have outside of the test: QUIC_TEST_NIC=NAME,NAME; "connectx"
// means those of tests/nic/guest.
std::pair<std::string, std::string> nic_names() {
    const char *text = std::getenv("QUIC_TEST_NIC");
    const std::string value = text != nullptr ? text : "";
    if (value == "connectx")
        return {"eth0", "eth1"};
    const auto comma = value.find(',');
    const auto good = [](const std::string &name) {
        return !name.empty() && name.size() < IF_NAMESIZE &&
               name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "0123456789_.-") == std::string::npos;
    };
    if (comma == std::string::npos || !good(value.substr(0, comma)) ||
        !good(value.substr(comma + 1)))
        throw std::runtime_error("QUIC_TEST_NIC: not two devices, as in eth0,eth1: " + value);
    return {value.substr(0, comma), value.substr(comma + 1)};
}

// The machine's own devices are where its first process is.
UniqueFd first_namespace() {
    UniqueFd fd(::open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0)
        throw_errno("/proc/1/ns/net");
    return fd;
}

} // namespace

void World::take_connectx() {
    const UniqueFd first = first_namespace();
    const InNamespace inside(first.get());
    const auto [name_a, name_b] = nic_names();
    command("ip link set " + name_a + " down; ip link set " + name_b + " down; ip link set " +
            name_a + " name va netns " + a.path() + "; ip link set " + name_b + " name vb netns " +
            b.path());
    has_connectx_ = true;
}

void World::give_back_connectx() {
    has_connectx_ = false;
    const auto [name_a, name_b] = nic_names();
    for (const auto &[ns, device, back] :
         {std::tuple{&a, "va", name_a}, std::tuple{&b, "vb", name_b}})
        ns->command(std::string("tc qdisc del dev ") + device + " root 2>/dev/null || true; " +
                    "tc qdisc del dev " + device + " clsact 2>/dev/null || true; " +
                    "ip link set " + device + " down; ip link set " + device + " nomaster; " +
                    "ip link set " + device + " mtu 1500 name " + back + " netns 1");
}

void World::make_netdevsim(const NetNamespace &ns, unsigned id, const std::string &device) {
    const InNamespace inside(ns);
    // The device is made in the namespace of the one who asks.
    write_file("/sys/bus/netdevsim/new_device", std::to_string(id) + " 1");
    // It is the newest; a rename wants it down, which it is.
    char name[IF_NAMESIZE] = "";
    for (unsigned index = 1; index < 1000; ++index) {
        char found[IF_NAMESIZE];
        if (::if_indextoname(index, found) != nullptr)
            std::copy(std::begin(found), std::end(found), name);
    }
    command("ip link set " + std::string(name) + " name " + device + "; ip link set " + device +
            " multicast on mtu 1500 up");
}

World::World(Wire wire) : wire_(wire) {
    if (wire == Wire::kVeth) {
        a.command("ip link add va type veth peer name vb netns " + b.path() +
                  "; ip link set va up; " + kAddressesA);
        b.command("ip link set vb up; " + kAddressesB);
    } else if (wire == Wire::kConnectx) {
        take_connectx();
        for (const auto &[ns, device] : {std::pair{&a, "va"}, std::pair{&b, "vb"}})
            ns->command(std::string("ethtool -K ") + device +
                        " udp-crypto-hw-tx-offload on tx on sg on gso on; ethtool -K " + device +
                        " tx-udp-segmentation on || true; ip link set " + device + " mtu 1500 up");
        a.command(kAddressesA);
        b.command(kAddressesB);
        const auto carrier = [](const NetNamespace &ns, const char *device) {
            return ns.command(std::string("ip -br link show ") + device).find("LOWER_UP") !=
                   std::string::npos;
        };
        if (!eventually([&] { return carrier(a, "va") && carrier(b, "vb"); }))
            throw std::runtime_error("the link does not come up");
    } else {
        make_netdevsims();
    }
    listen();
}

void World::make_netdevsims() {
    static unsigned next_id = 1;
    first_id_ = next_id;
    next_id += 2;
    make_netdevsim(a, first_id_, "va");
    make_netdevsim(b, first_id_ + 1, "vb");
    const auto index = [](const NetNamespace &ns, const char *device) {
        const InNamespace inside(ns);
        return std::to_string(::if_nametoindex(device));
    };
    write_file("/sys/bus/netdevsim/link_device", std::to_string(a.fd()) + ":" + index(a, "va") +
                                                     " " + std::to_string(b.fd()) + ":" +
                                                     index(b, "vb"));
    a.command(std::string("ethtool -K va udp-crypto-hw-tx-offload on tx-udp-segmentation ") +
              (wire_ == Wire::kOffload ? "on" : "off"));
    a.command(kAddressesA);
    b.command(kAddressesB);
}

void World::replace_devices() {
    remove_devices();
    make_netdevsims();
    listen();
}

void World::remove_devices() {
    if (has_connectx_)
        give_back_connectx();
    if (first_id_ == 0)
        return;
    for (unsigned id : {first_id_, first_id_ + 1})
        write_file("/sys/bus/netdevsim/del_device", std::to_string(id));
    first_id_ = 0;
}

World::~World() {
    try {
        remove_devices();
    } catch (const std::exception &error) {
        ADD_FAILURE() << error.what();
    }
}

std::string World::mac(const NetNamespace &ns, const std::string &device) {
    std::string out = ns.command("ip -br link show " + device + " | awk '{print $3}'");
    while (!out.empty() && out.back() == '\n')
        out.pop_back();
    return out;
}

std::uint64_t World::count_a(const std::string &name) const {
    const InNamespace inside(a);
    return Statistics::read()[name];
}

void World::turn_knob_a(const std::string &knob, const std::string &value) const {
    write_file("/sys/kernel/debug/netdevsim/netdevsim" + std::to_string(first_id_) +
                   "/ports/0/udp_crypto/" + knob,
               value);
}

void World::listen(bool judge_all) {
    a.run([&] { sniffer_a_ = std::make_unique<Sniffer>("host a"); });
    b.run([&] { sniffer_b_ = std::make_unique<Sniffer>("host b"); });
    if (wire_ != Wire::kVeth && !judge_all) {
        // What goes to a device that encrypts is plaintext to a listener in front of it, as with
        // any crypto offload; a VLAN device passes it on. Everything else that a's devices show
        // must not be.
        const InNamespace inside(a);
        sniffer_a_->ignore_outgoing_of(static_cast<int>(::if_nametoindex("va")));
        std::istringstream vlans(a.command("ip -br link show type vlan | cut -d@ -f1"));
        for (std::string vlan; vlans >> vlan;)
            if (a.command("ethtool -k " + vlan).find("udp-crypto-hw-tx-offload: on") !=
                std::string::npos)
                sniffer_a_->ignore_outgoing_of(static_cast<int>(::if_nametoindex(vlan.c_str())));
    }
}

void World::stop_listening() {
    sniffer_a_.reset();
    sniffer_b_.reset();
}

void World::expect_clean(bool silent) {
    for (Sniffer *sniffer : {sniffer_a_.get(), sniffer_b_.get()}) {
        if (sniffer == nullptr)
            continue;
        for (const std::string &complaint : sniffer->complaints())
            ADD_FAILURE() << complaint;
    }
    if (!silent && sniffer_b_ != nullptr) {
        EXPECT_GT(sniffer_b_->udp_frames(), 0U) << "nothing was heard at all";
    }
}

Flow::Flow(const NetNamespace &from_ns, const NetNamespace &to_ns, const Address &to, Cipher cipher)
    : to_(to), keys_(keys_of_seed(cipher, 0xf10)) {
    to_ns.run([&] {
        receiver_ = udp_socket(to_.family());
        set_option(receiver_.get(), SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20);
        set_option(receiver_.get(), SOL_SOCKET, SO_REUSEADDR, 1);
        Address any = to_.family() == AF_INET ? Address::v4("0.0.0.0", to_.port())
                                              : Address::v6("::", to_.port());
        bind_to(receiver_.get(), any);
        to_.set_port(Address::of_socket(receiver_.get()).port());
    });
    from_ns.run([&] {
        sender_ = udp_socket(to_.family());
        set_option(sender_.get(), SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20);
        set_option(sender_.get(), SOL_SOCKET, SO_ZEROCOPY, 1);
    });
    sa_ = add_sa_index(sender_.get(), 1, keys_);
}

ssize_t Flow::send_form(const Form &form) {
    std::vector<Bytes> packets;
    for (unsigned i = 0; i < form.packets; ++i) {
        const bool shorter = form.last_shorter && i + 1 == form.packets;
        packets.push_back(make_packet(shape(), next_pn_ + i, shorter ? size_ - 1 : size_));
    }
    const Bytes data = form.tag_room ? join_with_tag_room(packets) : join_packets(packets);
    const Bytes untouched = data;
    const std::uint16_t flags = form.tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
    Control control;
    if (form.inline_keys)
        control.quic_inline(next_pn_, keys_, shape().pn_offset(), flags);
    else
        control.quic(next_pn_, sa_, shape().pn_offset(), flags);
    if (form.packets > 1)
        control.gso_size(static_cast<std::uint16_t>(size_ + UDP_QUIC_TAG_LEN));
    const ssize_t result =
        send(sender_.get(), data, control, &to_, form.zerocopy ? MSG_ZEROCOPY : 0);
    if (result < 0) {
        // Their numbers are not used again: should one arrive, we know what it was.
        for (unsigned i = 0; i < form.packets; ++i)
            refused_.insert(next_pn_++);
        return result;
    }
    EXPECT_EQ(result, static_cast<ssize_t>(data.size()));
    for (Bytes &packet : packets)
        packets_.emplace(next_pn_++, std::move(packet));
    if (form.zerocopy) {
        // @data is ours again only now.
        const auto completion = zerocopy_completion(sender_.get());
        EXPECT_TRUE(completion.has_value()) << "no zerocopy completion";
        EXPECT_EQ(data, untouched) << "the caller's pages changed";
    }
    return result;
}

void Flow::settle(const World &world) {
    EXPECT_TRUE(eventually([&] {
        send_form({});
        return world.count_a("TxDevice") > 0;
    })) << "the device never took a packet";
}

void Flow::send_all_forms(unsigned rounds, bool gso) {
    for (unsigned round = 0; round < rounds; ++round)
        for (const Form &form : {Form{}, Form{.tag_room = true}, Form{.inline_keys = true},
                                 Form{.tag_room = true, .zerocopy = true}, Form{.packets = 2},
                                 Form{.packets = 11}, Form{.tag_room = true, .packets = 7},
                                 Form{.tag_room = true, .zerocopy = true, .packets = 5},
                                 Form{.inline_keys = true, .packets = 3}}) {
            if (form.packets > 1 && !gso)
                continue;
            EXPECT_GT(send_form(form), 0)
                << "tag room " << form.tag_room << " zerocopy " << form.zerocopy << " inline "
                << form.inline_keys << " packets " << form.packets;
        }
}

bool Flow::is_of_this_flow(ByteView wire) {
    if (contains_plaintext(wire)) {
        ADD_FAILURE() << "PLAINTEXT arrived";
        return false;
    }
    const auto opened = unprotect(keys_, wire, shape().pn_offset(), next_pn_);
    if (!opened)
        return false;
    if (refused_.contains(opened->pn)) {
        ADD_FAILURE() << "packet " << opened->pn - kFirstPn << " arrived, whose send had failed";
        return true;
    }
    const auto found = packets_.find(opened->pn);
    if (found == packets_.end()) {
        ADD_FAILURE() << "arrived with a number that was never sent: " << opened->pn - kFirstPn;
        return false;
    }
    EXPECT_EQ(opened->packet, found->second) << "packet " << opened->pn - kFirstPn;
    if (!arrived_.insert(opened->pn).second)
        ++duplicates_;
    return true;
}

bool Flow::take_one(std::chrono::milliseconds patience) {
    const auto wire = receive(receiver_.get(), patience);
    if (!wire)
        return false;
    EXPECT_TRUE(is_of_this_flow(*wire))
        << "does not decrypt: "
        << to_hex(ByteView(*wire).first(std::min<std::size_t>(wire->size(), 40)));
    return true;
}

void Flow::expect_all_arrive(bool duplicates_allowed, const World *world) {
    const auto lost = [&] { return world != nullptr ? world->count_a("DropNoKeys") : 0; };
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (arrived_.size() + lost() < packets_.size()) {
        if (!take_one(world != nullptr ? std::chrono::milliseconds(50) : kPatience) &&
            std::chrono::steady_clock::now() > deadline) {
            ADD_FAILURE() << arrived_.size() << " arrived, " << lost()
                          << " counted in DropNoKeys, of " << packets_.size();
            return;
        }
    }
    // Copies may be among the lost, so the sum may be more.
    EXPECT_GE(arrived_.size() + lost(), packets_.size());
    EXPECT_GT(arrived_.size(), 0U);
    if (!duplicates_allowed) {
        EXPECT_EQ(duplicates_, 0U);
    }
}

} // namespace quic_test
