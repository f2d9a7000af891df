// SPDX-License-Identifier: MIT
#include "tx_batch.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <array>

namespace quic_server {

std::string Address::to_string() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (family() == AF_INET) {
        inet_ntop(AF_INET, &in4.sin_addr, text.data(), text.size());
        return std::string(text.data()) + ':' + std::to_string(ntohs(in4.sin_port));
    }
    if (family() == AF_INET6) {
        inet_ntop(AF_INET6, &in6.sin6_addr, text.data(), text.size());
        return '[' + std::string(text.data()) + "]:" + std::to_string(ntohs(in6.sin6_port));
    }
    return "?";
}

std::shared_ptr<TxBuffer> TxBufferPool::get() {
    std::unique_ptr<TxBuffer> buffer;
    if (free_.empty()) {
        buffer = std::make_unique<TxBuffer>();
    } else {
        buffer = std::move(free_.back());
        free_.pop_back();
    }
    return {buffer.release(), [pool = weak_from_this()](TxBuffer *used) {
                std::unique_ptr<TxBuffer> owned(used);
                if (auto alive = pool.lock(); alive && alive->free_.size() < kKeep)
                    alive->free_.push_back(std::move(owned));
            }};
}

TxBatch::TxBatch(std::shared_ptr<TxBuffer> buffer, const Datagram &first, std::size_t max_packets)
    : buffer_(std::move(buffer)), offset_(first.offset), length_(first.length),
      gso_size_(first.length), max_packets_(max_packets),
      endpoint_(static_cast<Endpoint *>(first.path.user_data)),
      local_(first.path.local.addr, first.path.local.addrlen),
      remote_(first.path.remote.addr, first.path.remote.addrlen), ecn_(first.ecn),
      plaintext_(first.plaintext), open_(first.batchable && max_packets > 1) {}

bool TxBatch::append(const Datagram &next) {
    if (!open_ || !next.batchable || next.length > gso_size_ || next.offset != offset_ + length_ ||
        length_ + next.length > offload::kMaxSendBytes || next.path.user_data != endpoint_ ||
        next.ecn != ecn_ || !remote_.is(next.path.remote.addr, next.path.remote.addrlen) ||
        !local_.is(next.path.local.addr, next.path.local.addrlen) ||
        next.plaintext.has_value() != plaintext_.has_value())
        return false;
    if (plaintext_ && (next.plaintext->key != plaintext_->key ||
                       next.plaintext->pn != plaintext_->pn + packets_ ||
                       next.plaintext->pn_offset != plaintext_->pn_offset))
        return false;
    length_ += next.length;
    ++packets_;
    // Only the last packet may be shorter.
    open_ = next.length == gso_size_ && packets_ < max_packets_;
    return true;
}

std::span<std::uint8_t> TxBatch::packet(std::size_t i) const {
    const auto all = bytes();
    const std::size_t start = i * gso_size_;
    return all.subspan(start, std::min(gso_size_, all.size() - start));
}

PlaintextPacket TxBatch::plaintext_of(std::size_t i) const {
    PlaintextPacket packet = *plaintext_;
    packet.pn += i;
    return packet;
}

TxBatch TxBatch::split_first() {
    TxBatch first(*this);
    first.length_ = gso_size_;
    first.packets_ = 1;
    first.open_ = false;
    offset_ += gso_size_;
    length_ -= gso_size_;
    gso_size_ = std::min(gso_size_, length_);
    --packets_;
    if (plaintext_)
        ++plaintext_->pn;
    return first;
}

} // namespace quic_server
