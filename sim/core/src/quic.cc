// SPDX-License-Identifier: GPL-2.0
#include "quic.h"

#include "core.h"

#include <bit>
#include <utility>

namespace connectx {

namespace {

constexpr unsigned kMaxPnOffset = 2047;   // what the segment's field holds
constexpr unsigned kMaxLsoSegments = 512; // several times what Linux puts into one send
constexpr std::size_t kBytesSealed = 32;  // in a unit of WorkMeter, by the slowest cipher
constexpr std::size_t kPrepareKeys = 20;
constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kIpv6Header = 40;

unsigned log_database_size(const Config &config) {
    // The index form needs log_max_sa > 0, so that one entry has a table of two.
    return config.sadb_size == 0 ? 0 : std::max<unsigned>(1, std::bit_width(config.sadb_size - 1));
}

bool all_zero(ConstBytes bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t b) { return b == 0; });
}

template <typename T> T load(ConstBytes from, std::size_t offset) {
    T t;
    std::memcpy(&t, from.data() + offset, sizeof(t));
    return t;
}

/// Key, IV and header protection key as both forms have them. False when there is something behind
/// a key that is shorter than its field.
bool load_keys(QuicCipher cipher, ConstBytes iv, ConstBytes key, ConstBytes hp, QuicKeys &keys) {
    const std::size_t length = quic_key_length(cipher);
    keys.cipher = cipher;
    std::copy_n(iv.begin(), keys.iv.size(), keys.iv.begin());
    std::copy_n(key.begin(), length, keys.key.begin());
    std::copy_n(hp.begin(), length, keys.hp.begin());
    return all_zero(key.subspan(length, MLX5_QUIC_KEY_MAX - length)) &&
           all_zero(hp.subspan(length, MLX5_QUIC_KEY_MAX - length));
}

} // namespace

static_assert(sizeof(mlx5_wqe_quic_seg) == 16);
static_assert(sizeof(mlx5_wqe_quic_keys_seg) == 80);
static_assert(IFC_BYTES(quic_sa_obj) == 128);
static_assert(IFC_BYTES(quic_cap) == 256);
static_assert(IFC_BYTES(quic_cnt_reg) == 96);
static_assert(kQuicTagLength == MLX5_QUIC_TAG_LEN && kQuicIvLength == MLX5_QUIC_IV_LEN &&
              kQuicMaxKeyLength == MLX5_QUIC_KEY_MAX && kQuicSampleLength == MLX5_QUIC_SAMPLE_LEN &&
              kQuicSampleOffset == MLX5_QUIC_SAMPLE_OFFSET);

const char *quic_cipher_name(QuicCipher cipher) {
    switch (cipher) {
    case QuicCipher::kAes128Gcm:
        return "aes-128-gcm";
    case QuicCipher::kAes256Gcm:
        return "aes-256-gcm";
    case QuicCipher::kChaCha20Poly1305:
        return "chacha20-poly1305";
    case QuicCipher::kAes128Ccm:
        break;
    }
    return "aes-128-ccm";
}

std::optional<QuicCipher> quic_cipher_of(unsigned mlx5_quic_cipher) {
    switch (mlx5_quic_cipher) {
    case MLX5_QUIC_CIPHER_AES_128_GCM:
        return QuicCipher::kAes128Gcm;
    case MLX5_QUIC_CIPHER_AES_256_GCM:
        return QuicCipher::kAes256Gcm;
    case MLX5_QUIC_CIPHER_CHACHA20_POLY1305:
        return QuicCipher::kChaCha20Poly1305;
    case MLX5_QUIC_CIPHER_AES_128_CCM:
        return QuicCipher::kAes128Ccm;
    default:
        return std::nullopt;
    }
}

static unsigned mlx5_cipher(QuicCipher cipher) {
    switch (cipher) {
    case QuicCipher::kAes128Gcm:
        return MLX5_QUIC_CIPHER_AES_128_GCM;
    case QuicCipher::kAes256Gcm:
        return MLX5_QUIC_CIPHER_AES_256_GCM;
    case QuicCipher::kChaCha20Poly1305:
        return MLX5_QUIC_CIPHER_CHACHA20_POLY1305;
    case QuicCipher::kAes128Ccm:
        break;
    }
    return MLX5_QUIC_CIPHER_AES_128_CCM;
}

bool parse_quic_ciphers(std::string_view text, unsigned &ciphers) {
    unsigned found = 0;
    while (!text.empty()) {
        const auto colon = text.find(':');
        const std::string_view name = text.substr(0, colon);
        text = colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
        bool known = false;
        for (unsigned i = 0; i < kQuicCipherCount; ++i)
            if (name == quic_cipher_name(static_cast<QuicCipher>(i))) {
                found |= 1U << i;
                known = true;
            }
        if (!known)
            return false;
    }
    ciphers = found;
    return true;
}

// --- SA database ---------------------------------------------------------------------------------

std::uint32_t QuicSaDatabase::insert(std::unique_ptr<QuicSa> sa) {
    if (sas_.size() < size_) {
        sas_.push_back(std::move(sa));
        return static_cast<std::uint32_t>(sas_.size() - 1);
    }
    const std::uint32_t index = freed_.front();
    freed_.pop_front();
    sas_[index] = std::move(sa);
    return index;
}

QuicSa *QuicSaDatabase::find(std::uint32_t index) const {
    return index < sas_.size() ? sas_[index].get() : nullptr;
}

void QuicSaDatabase::erase(std::uint32_t index) {
    sas_[index].reset();
    freed_.push_back(index);
}

std::deque<std::unique_ptr<QuicSa>> QuicSaDatabase::take_all() {
    freed_.clear();
    return std::exchange(sas_, {});
}

// --- capabilities and commands -------------------------------------------------------------------

QuicOffload::QuicOffload(Core &core, const Config &config)
    : core_(core), config_(config), engine_(config.quic ? std::make_unique<QuicEngine>() : nullptr),
      sadb_(config.sadb_size) {}

bool QuicOffload::supported(QuicCipher cipher) const {
    return (config_.quic_ciphers >> static_cast<unsigned>(cipher) & 1) != 0;
}

void QuicOffload::fill_capabilities(const Config &config, Bytes general, Bytes quic) {
    IFC_SET64(cmd_hca_cap, general, general_obj_types,
              IFC_GET64(cmd_hca_cap, ConstBytes(general), general_obj_types) |
                  MLX5_HCA_CAP_GENERAL_OBJECT_TYPES_QUIC_SA);
    const auto has = [&config](QuicCipher cipher) {
        return config.quic_ciphers >> static_cast<unsigned>(cipher) & 1;
    };
#define SET(field, value) IFC_SET(quic_cap, quic, field, value)
    SET(quic_tx, 1);
    SET(sa_index_form, config.sadb_size > 0);
    SET(inline_form, config.quic_inline);
    SET(lso, config.quic_lso);
    SET(aes_128_gcm, has(QuicCipher::kAes128Gcm));
    SET(aes_256_gcm, has(QuicCipher::kAes256Gcm));
    SET(chacha20_poly1305, has(QuicCipher::kChaCha20Poly1305));
    SET(aes_128_ccm, has(QuicCipher::kAes128Ccm));
    SET(log_max_sa, log_database_size(config));
    SET(max_pn_offset, kMaxPnOffset);
    SET(max_lso_segments, kMaxLsoSegments);
#undef SET
}

CommandStatus QuicOffload::create(const Command &cmd) {
    if (cmd.in.size() < IFC_BYTES(create_quic_sa_in))
        return bad_input_length(0x701);
    const ConstBytes param = IFC_AT(general_obj_in_cmd_hdr, cmd.in, op_param);
    if (IFC_GET(general_obj_create_param, param, alias_object) != 0 ||
        IFC_GET(general_obj_create_param, param, log_obj_range) != 0)
        return bad_param(0x702);
    const ConstBytes obj = IFC_AT(create_quic_sa_in, cmd.in, quic_sa_object);
    const auto cipher = quic_cipher_of(IFC_GET(quic_sa_obj, obj, cipher));
    if (!cipher || !supported(*cipher))
        return bad_param(0x703);
    if (IFC_GET64(quic_sa_obj, obj, modify_field_select) != 0 ||
        IFC_GET(quic_sa_obj, obj, reserved_at_48) != 0 ||
        IFC_GET(quic_sa_obj, obj, reserved_at_60) != 0 ||
        !all_zero(IFC_AT(quic_sa_obj, obj, reserved_at_300)
                      .first(IFC_FIELD_BYTES(quic_sa_obj, reserved_at_300))))
        return bad_param(0x704);
    auto sa = std::make_unique<QuicSa>();
    if (!load_keys(*cipher, IFC_AT(quic_sa_obj, obj, iv), IFC_AT(quic_sa_obj, obj, key),
                   IFC_AT(quic_sa_obj, obj, hp_key), sa->keys))
        return bad_param(0x705);
    sa->pd = IFC_GET(quic_sa_obj, obj, pd);
    sa->tag = IFC_GET(quic_sa_obj, obj, tag);
    Pd *pd = core_.pds.find(sa->pd);
    if (pd == nullptr)
        return bad_resource(0x706);
    if (auto failure = core_.faults.take_quic_sa_failure())
        return *failure;
    if (sadb_.full()) {
        ++counters_.sa_rejected_full;
        return no_resources(0x707);
    }
    ++pd->refs;
    ++counters_.sa_created;
    const std::uint32_t tag = sa->tag;
    const std::uint32_t index = sadb_.insert(std::move(sa));
    IFC_SET(general_obj_out_cmd_hdr, cmd.out, obj_id, index);
    if (core_.config.trace)
        core_.trace(
            format("  QUIC_SA %u created: %s tag %#x", index, quic_cipher_name(*cipher), tag));
    return kOk;
}

CommandStatus QuicOffload::query(const Command &cmd) {
    if (cmd.out.size() < IFC_BYTES(query_quic_sa_out))
        return bad_output_length(0x710);
    const std::uint32_t index = IFC_GET(general_obj_in_cmd_hdr, cmd.in, obj_id);
    const QuicSa *sa = sadb_.find(index);
    if (sa == nullptr)
        return bad_resource(0x711);
    IFC_SET(general_obj_out_cmd_hdr, cmd.out, obj_id, index);
    const Bytes obj = IFC_AT(query_quic_sa_out, cmd.out, quic_sa_object);
    IFC_SET(quic_sa_obj, obj, cipher, mlx5_cipher(sa->keys.cipher));
    IFC_SET(quic_sa_obj, obj, pd, sa->pd);
    IFC_SET(quic_sa_obj, obj, tag, sa->tag);
    return kOk;
}

CommandStatus QuicOffload::destroy(const Command &cmd) {
    const std::uint32_t index = IFC_GET(general_obj_in_cmd_hdr, cmd.in, obj_id);
    const QuicSa *sa = sadb_.find(index);
    if (sa == nullptr)
        return bad_resource(0x712);
    core_.pds.release(sa->pd);
    sadb_.erase(index);
    ++counters_.sa_destroyed;
    if (core_.config.trace)
        core_.trace(format("  QUIC_SA %u destroyed", index));
    return kOk;
}

void QuicOffload::read_counters(Bytes out) const {
#define PUT(field) IFC_SET64(quic_cnt_reg, out, field, counters_.field)
    PUT(tx_index_packets);
    PUT(tx_inline_packets);
    PUT(tx_bytes);
    PUT(drop_stale_sa);
    PUT(drop_pd);
    PUT(drop_headers);
    PUT(drop_short);
    PUT(wqe_errors);
    PUT(sa_created);
    PUT(sa_destroyed);
    PUT(sa_rejected_full);
#undef PUT
    IFC_SET(quic_cnt_reg, out, sa_installed, sadb_.installed());
}

void QuicOffload::reset() {
    core_.graveyard.bury(sadb_.take_all());
    counters_ = {};
}

std::string QuicOffload::describe() const {
    if (!engine_)
        return "quic off\n";
    const QuicCounters &c = counters_;
    return format("quic sa %zu of %u created %lu destroyed %lu rejected-full %lu\n"
                  "quic tx-index %lu tx-inline %lu bytes %lu drop-stale-sa %lu drop-pd %lu "
                  "drop-headers %lu drop-short %lu wqe-errors %lu\n",
                  sadb_.installed(), sadb_.size(), c.sa_created, c.sa_destroyed, c.sa_rejected_full,
                  c.tx_index_packets, c.tx_inline_packets, c.tx_bytes, c.drop_stale_sa, c.drop_pd,
                  c.drop_headers, c.drop_short, c.wqe_errors);
}

// --- WQEs ----------------------------------------------------------------------------------------

std::size_t QuicOffload::segment_length(ConstBytes wqe, std::size_t offset) const {
    if (offset + sizeof(mlx5_wqe_quic_seg) > wqe.size())
        return sizeof(mlx5_wqe_quic_seg);
    const auto form =
        be64_to_cpu(load<mlx5_wqe_quic_seg>(wqe, offset).form_pn) >> MLX5_WQE_QUIC_FORM_SHIFT;
    if (form == MLX5_WQE_QUIC_FORM_INDEX && config_.sadb_size > 0)
        return sizeof(mlx5_wqe_quic_seg);
    if (form == MLX5_WQE_QUIC_FORM_INLINE && config_.quic_inline)
        return sizeof(mlx5_wqe_quic_seg) + sizeof(mlx5_wqe_quic_keys_seg);
    return 0;
}

unsigned QuicOffload::parse(ConstBytes wqe, std::size_t offset, Request &request) const {
    if (!engine_)
        return MLX5_QUIC_VENDOR_SYND_OPCODE;
    const std::size_t length = segment_length(wqe, offset);
    if (length == 0)
        return MLX5_QUIC_VENDOR_SYND_FORM;
    if (offset + length > wqe.size())
        return MLX5_QUIC_VENDOR_SYND_TRUNCATED;

    const auto seg = load<mlx5_wqe_quic_seg>(wqe, offset);
    const std::uint32_t where = be32_to_cpu(seg.pn_offset_sa);
    request.is_inline = length != sizeof(seg);
    request.pn = be64_to_cpu(seg.form_pn) & MLX5_WQE_QUIC_PN_MASK;
    request.pn_offset = where >> MLX5_WQE_QUIC_PN_OFFSET_SHIFT;
    request.sa = where & MLX5_WQE_QUIC_SA_MASK;
    request.tag = be32_to_cpu(seg.tag);
    if (!request.is_inline) {
        if (request.pn_offset == 0 || request.pn_offset > kMaxPnOffset)
            return MLX5_QUIC_VENDOR_SYND_PN_OFFSET;
        if (request.sa >> log_database_size(config_) != 0)
            return MLX5_QUIC_VENDOR_SYND_SA_RANGE;
        return 0;
    }

    const ConstBytes raw = wqe.subspan(offset + sizeof(seg), sizeof(mlx5_wqe_quic_keys_seg));
    const auto at = [raw](std::size_t from, std::size_t size) { return raw.subspan(from, size); };
#define FIELD(name) at(offsetof(mlx5_wqe_quic_keys_seg, name), sizeof(mlx5_wqe_quic_keys_seg::name))
    if (request.sa != 0 || request.tag != 0 || !all_zero(FIELD(reserved)))
        return MLX5_QUIC_VENDOR_SYND_RESERVED;
    if (request.pn_offset == 0 || request.pn_offset > kMaxPnOffset)
        return MLX5_QUIC_VENDOR_SYND_PN_OFFSET;
    const auto cipher = quic_cipher_of(FIELD(cipher)[0]);
    if (!cipher || !supported(*cipher))
        return MLX5_QUIC_VENDOR_SYND_CIPHER;
    if (!load_keys(*cipher, FIELD(iv), FIELD(key), FIELD(hp_key), request.keys))
        return MLX5_QUIC_VENDOR_SYND_RESERVED;
#undef FIELD
    return 0;
}

unsigned QuicOffload::check_packets(const Request &request, std::size_t packets, bool lso) {
    if (packets > 0 && packets - 1 > kQuicMaxPacketNumber - request.pn)
        return MLX5_QUIC_VENDOR_SYND_PN;
    if (lso && packets > kMaxLsoSegments)
        return MLX5_QUIC_VENDOR_SYND_SEGMENTS;
    return 0;
}

QuicOffload::Job QuicOffload::start(const Request &request, std::uint32_t pd) {
    Job job;
    job.request_ = &request;
    const char *outcome = "encrypt";
    core_.work.charge(kPrepareKeys);
    if (request.is_inline) {
        job.own_ = engine_->prepare(request.keys);
        job.schedule_ = job.own_.get();
    } else if (QuicSa *sa = sadb_.find(request.sa); sa == nullptr || sa->tag != request.tag) {
        job.drop_counter_ = &counters_.drop_stale_sa;
        outcome = "drop, stale SA";
    } else if (sa->pd != pd) {
        job.drop_counter_ = &counters_.drop_pd;
        outcome = "drop, other PD";
    } else {
        if (!sa->schedule)
            sa->schedule = engine_->prepare(sa->keys);
        job.schedule_ = sa->schedule.get();
    }
    if (core_.config.trace)
        core_.trace(request.is_inline
                        ? format("  QUIC inline %s pn %lu pn_offset %zu: %s",
                                 quic_cipher_name(request.keys.cipher),
                                 static_cast<unsigned long>(request.pn), request.pn_offset, outcome)
                        : format("  QUIC SA %u tag %#x pn %lu pn_offset %zu: %s", request.sa,
                                 request.tag, static_cast<unsigned long>(request.pn),
                                 request.pn_offset, outcome));
    return job;
}

bool QuicOffload::seal(Job &job, Bytes frame, const PacketInfo &info, ConstBytes source,
                       std::uint64_t number) {
    if (job.schedule_ == nullptr) {
        ++*job.drop_counter_;
        return false;
    }
    // Nothing of a UDP datagram may stay outside what is encrypted: the lengths have to agree.
    const std::size_t ip_header = info.ip_version == 4 ? kIpv4Header : kIpv6Header;
    if (info.malformed || !info.is_udp() || info.l4_offset != info.l3_offset + ip_header ||
        info.ip_end != frame.size() || info.payload_offset > frame.size() ||
        load_be<std::uint16_t>(&frame[info.l4_offset + 4]) != frame.size() - info.l4_offset) {
        ++counters_.drop_headers;
        return false;
    }
    const Bytes packet = frame.subspan(info.payload_offset);
    const Request &request = *job.request_;
    core_.work.charge_bytes(packet.size(), kBytesSealed);
    if (engine_->seal(*job.schedule_, packet, source, request.pn_offset, request.pn + number) !=
        QuicProtectResult::kOk) {
        ++counters_.drop_short;
        return false;
    }
    ++(request.is_inline ? counters_.tx_inline_packets : counters_.tx_index_packets);
    counters_.tx_bytes += packet.size();
    return true;
}

void QuicOffload::finish(const Job &job, std::span<const Bytes> packets) {
    if (!packets.empty())
        engine_->protect_headers(*job.schedule_, packets, job.request_->pn_offset);
}

bool QuicOffload::protect(Job &job, Bytes frame, const PacketInfo &info) {
    const Bytes packet = frame.subspan(std::min<std::size_t>(info.payload_offset, frame.size()));
    if (!seal(job, frame, info, packet, 0))
        return false;
    finish(job, {&packet, 1});
    return true;
}

// --- command table -------------------------------------------------------------------------------

namespace {

bool is_quic_sa(Core &core, const Command &cmd) {
    return core.config.quic &&
           IFC_GET(general_obj_in_cmd_hdr, cmd.in, obj_type) == MLX5_GENERAL_OBJECT_TYPES_QUIC_SA;
}

/// Keys of IPsec, TLS and MACsec, and what is made of them: known, but there is no room for any.
bool is_known_object(Core &core, const Command &cmd) {
    const unsigned type = IFC_GET(general_obj_in_cmd_hdr, cmd.in, obj_type);
    return type < 64 &&
           (IFC_GET64(cmd_hca_cap, core.caps.general(), general_obj_types) >> type & 1) != 0;
}

CommandStatus create_general_object(Core &core, const Command &cmd) {
    if (is_quic_sa(core, cmd))
        return core.quic.create(cmd);
    return is_known_object(core, cmd) ? no_resources(0x714) : bad_param(0x700);
}
CommandStatus query_general_object(Core &core, const Command &cmd) {
    if (is_quic_sa(core, cmd))
        return core.quic.query(cmd);
    return is_known_object(core, cmd) ? bad_resource(0x715) : bad_param(0x700);
}
CommandStatus destroy_general_object(Core &core, const Command &cmd) {
    if (is_quic_sa(core, cmd))
        return core.quic.destroy(cmd);
    return is_known_object(core, cmd) ? bad_resource(0x716) : bad_param(0x700);
}
// A QUIC key update is a second SA.
CommandStatus modify_general_object(Core & /*core*/, const Command & /*cmd*/) {
    return bad_op(0x713);
}

} // namespace

void register_quic_commands(CommandTable &t) {
    using enum CommandStage;
    constexpr std::size_t kIn = IFC_BYTES(general_obj_in_cmd_hdr);
    constexpr std::size_t kOut = IFC_BYTES(general_obj_out_cmd_hdr);
#define ADD(op, handler) t[MLX5_CMD_OP_##op] = {#op, kIn, kOut, kHcaInitialized, handler}
    ADD(CREATE_GENERAL_OBJECT, create_general_object);
    ADD(QUERY_GENERAL_OBJECT, query_general_object);
    ADD(DESTROY_GENERAL_OBJECT, destroy_general_object);
    ADD(MODIFY_GENERAL_OBJECT, modify_general_object);
#undef ADD
}

} // namespace connectx
