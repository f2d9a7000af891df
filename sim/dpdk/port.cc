// SPDX-License-Identifier: GPL-2.0
#include "port.h"

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_pause.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace connectx::dpdk {

namespace {

constexpr unsigned kBuffers = 8191;
constexpr unsigned kDescriptors = 1024;
constexpr std::size_t kBufferSize = 2048; // longer frames take several
constexpr unsigned kPatienceSeconds = 10;

void check(int result, const char *what) {
    if (result < 0)
        throw std::runtime_error(std::string(what) + ": " + rte_strerror(-result));
}

} // namespace

Port::Port(const std::string &name) {
    if (name.empty())
        id_ = static_cast<std::uint16_t>(rte_eth_find_next(0));
    else if (rte_eth_dev_get_port_by_name(name.c_str(), &id_) != 0)
        throw std::runtime_error("no DPDK port " + name);
    if (!rte_eth_dev_is_valid_port(id_))
        throw std::runtime_error("no DPDK port: give one, such as --vdev net_ring0");
    const int socket = rte_eth_dev_socket_id(id_);
    pool_ = rte_pktmbuf_pool_create(("wire" + std::to_string(id_)).c_str(), kBuffers, 256, 0,
                                    RTE_PKTMBUF_HEADROOM + kBufferSize, socket);
    if (pool_ == nullptr)
        throw std::runtime_error(std::string("buffers: ") + rte_strerror(rte_errno));
    const rte_eth_conf conf{};
    std::uint16_t rx = kDescriptors;
    std::uint16_t tx = kDescriptors;
    check(rte_eth_dev_configure(id_, 1, 1, &conf), "configuring the port");
    check(rte_eth_dev_adjust_nb_rx_tx_desc(id_, &rx, &tx), "sizing the port's rings");
    const auto any = static_cast<unsigned>(socket);
    check(rte_eth_rx_queue_setup(id_, 0, rx, any, nullptr, pool_), "receive queue");
    check(rte_eth_tx_queue_setup(id_, 0, tx, any, nullptr), "transmit queue");
    check(rte_eth_dev_start(id_), "starting the port");
    // Not every port can be told; those that cannot see everything anyway.
    rte_eth_promiscuous_enable(id_);
}

Port::~Port() {
    flush();
    rte_eth_dev_stop(id_);
    rte_eth_dev_close(id_);
}

bool Port::up() const {
    rte_eth_link link{};
    return rte_eth_link_get_nowait(id_, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

void Port::send(std::span<const std::uint8_t> frame) {
    rte_mbuf *packet = rte_pktmbuf_alloc(pool_);
    if (packet == nullptr || frame.size() > kMaxFrame) {
        rte_pktmbuf_free(packet);
        ++refused;
        return;
    }
    rte_mbuf *part = packet;
    for (std::size_t at = 0;;) {
        const std::size_t n = std::min<std::size_t>(frame.size() - at, rte_pktmbuf_tailroom(part));
        std::memcpy(rte_pktmbuf_mtod(part, void *), frame.data() + at, n);
        part->data_len = static_cast<std::uint16_t>(n);
        at += n;
        if (at == frame.size())
            break;
        rte_mbuf *next = rte_pktmbuf_alloc(pool_);
        if (next == nullptr) {
            rte_pktmbuf_free(packet);
            ++refused;
            return;
        }
        ++packet->nb_segs;
        part->next = next;
        part = next;
    }
    packet->pkt_len = static_cast<std::uint32_t>(frame.size());
    tx_[tx_count_++] = packet;
    if (tx_count_ == kBurst)
        flush();
}

void Port::flush() {
    const std::uint64_t end = rte_get_timer_cycles() + kPatienceSeconds * rte_get_timer_hz();
    while (tx_count_ > 0) {
        const unsigned taken =
            rte_eth_tx_burst(id_, 0, tx_.data(), static_cast<std::uint16_t>(tx_count_));
        sent += taken;
        std::copy(tx_.begin() + taken, tx_.begin() + tx_count_, tx_.begin());
        tx_count_ -= taken;
        if (taken != 0)
            continue;
        if (rte_get_timer_cycles() > end) {
            refused += tx_count_;
            rte_pktmbuf_free_bulk(tx_.data(), tx_count_);
            tx_count_ = 0;
        } else if (on_full) {
            on_full();
        } else {
            rte_pause();
        }
    }
}

Packets Port::receive() { return Packets(rx_).first(rte_eth_rx_burst(id_, 0, rx_.data(), kBurst)); }

} // namespace connectx::dpdk
