// SPDX-License-Identifier: GPL-2.0
#include "world.h"

#include <algorithm>
#include <stdexcept>

#include <gtest/gtest.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

namespace quic_test {

World::World() {
    a.command("ip link add va type veth peer name vb netns " + b.path() +
              "; ip addr add 10.1.1.1/24 brd + dev va; ip addr add fd01::1/64 dev va nodad; "
              "ip link set va up");
    b.command("ip addr add 10.1.1.2/24 brd + dev vb; ip addr add fd01::2/64 dev vb nodad; "
              "ip link set vb up");
    listen();
}

void World::listen() {
    a.run([&] { sniffer_a_ = std::make_unique<Sniffer>("host a"); });
    b.run([&] { sniffer_b_ = std::make_unique<Sniffer>("host b"); });
}

void World::expect_clean(bool silent) {
    for (Sniffer *sniffer : {sniffer_a_.get(), sniffer_b_.get()})
        for (const std::string &complaint : sniffer->complaints())
            ADD_FAILURE() << complaint;
    if (!silent) {
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
    for (unsigned i = 0; i < form.packets; ++i)
        packets.push_back(make_packet(shape(), next_pn_ + i, size_));
    const Bytes data = form.tag_room ? join_with_tag_room(packets) : join_packets(packets);
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
    if (result < 0)
        return result;
    EXPECT_EQ(result, static_cast<ssize_t>(data.size()));
    for (Bytes &packet : packets)
        packets_.emplace(next_pn_++, std::move(packet));
    if (form.zerocopy) {
        // @data is ours again only now.
        const auto completion = zerocopy_completion(sender_.get());
        EXPECT_TRUE(completion.has_value()) << "no zerocopy completion";
    }
    return result;
}

void Flow::send_all_forms(unsigned rounds, bool gso) {
    for (unsigned round = 0; round < rounds; ++round)
        for (const Form &form :
             {Form{}, Form{.tag_room = true}, Form{.inline_keys = true},
              Form{.tag_room = true, .zerocopy = true}, Form{.packets = 2}, Form{.packets = 11},
              Form{.tag_room = true, .packets = 7},
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
        << "does not decrypt: " << to_hex(ByteView(*wire).first(std::min<std::size_t>(
               wire->size(), 40)));
    return true;
}

void Flow::expect_all_arrive(bool duplicates_allowed) {
    while (arrived_.size() < packets_.size()) {
        if (!take_one()) {
            ADD_FAILURE() << arrived_.size() << " of " << packets_.size() << " packets arrived";
            return;
        }
    }
    if (!duplicates_allowed) {
        EXPECT_EQ(duplicates_, 0U);
    }
}

} // namespace quic_test
