// SPDX-License-Identifier: GPL-2.0
//
// Page lists, protection domains, memory keys.
#include "core.h"

namespace connectx {

bool PageList::read(Core &core, std::uint64_t offset, Bytes dst) const {
    if (offset > bytes() || dst.size() > bytes() - offset)
        return false;
    while (!dst.empty()) {
        const std::uint64_t in_page = offset & ((1ULL << page_shift) - 1);
        const std::size_t n = std::min<std::uint64_t>(dst.size(), (1ULL << page_shift) - in_page);
        if (!core.dma_read({pages[offset >> page_shift] + in_page}, dst.first(n)))
            return false;
        dst = dst.subspan(n);
        offset += n;
    }
    return true;
}

bool PageList::write(Core &core, std::uint64_t offset, ConstBytes src) const {
    if (offset > bytes() || src.size() > bytes() - offset)
        return false;
    while (!src.empty()) {
        const std::uint64_t in_page = offset & ((1ULL << page_shift) - 1);
        const std::size_t n = std::min<std::uint64_t>(src.size(), (1ULL << page_shift) - in_page);
        if (!core.dma_write({pages[offset >> page_shift] + in_page}, src.first(n)))
            return false;
        src = src.subspan(n);
        offset += n;
    }
    return true;
}

Mkey *Memory::find(std::uint32_t lkey) const {
    Mkey *mkey = core_.mkeys.find(lkey >> 8);
    return mkey != nullptr && mkey->key == (lkey & 0xff) ? mkey : nullptr;
}

/// The key itself: whether it permits the access, and where in its translations `addr` is.
template <typename Span>
const Mkey *Memory::permits(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Span data,
                            bool write) const {
    const Mkey *mkey = find(lkey);
    if (mkey == nullptr || mkey->free || mkey->pd != pd ||
        !(write ? mkey->local_write : mkey->local_read))
        return nullptr;
    if (!mkey->length64 && (addr < mkey->start || addr - mkey->start > mkey->length ||
                            data.size() > mkey->length - (addr - mkey->start)))
        return nullptr;
    return mkey;
}

/// A key that leads straight to memory.
template <typename Span, typename Op>
Syndrome Memory::access_direct(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Span data,
                               bool write, Op op) {
    const Mkey *mkey = permits(lkey, pd, addr, data, write);
    if (mkey == nullptr || mkey->access_mode == MLX5_MKC_ACCESS_MODE_KSM)
        return Syndrome::kLocalProt;
    if (mkey->access_mode == MLX5_MKC_ACCESS_MODE_PA)
        return op(GuestAddr{addr}, data) ? Syndrome::kOk : Syndrome::kLocalProt;

    std::uint64_t offset = addr - mkey->start;
    const std::uint64_t page_size = 1ULL << mkey->page_shift;
    while (!data.empty()) {
        const std::uint64_t index = offset >> mkey->page_shift;
        const std::uint64_t in_page = offset & (page_size - 1);
        const std::size_t n = std::min<std::uint64_t>(data.size(), page_size - in_page);
        if (index >= mkey->mtt.size() || mkey->mtt[index] == 0 ||
            !op(GuestAddr{mkey->mtt[index] + in_page}, data.first(n)))
            return Syndrome::kLocalProt;
        data = data.subspan(n);
        offset += n;
    }
    return Syndrome::kOk;
}

/// One that may be made of pieces of others, all of the same size: they are direct ones
/// (max_indirection is 1).
template <typename Span, typename Op>
Syndrome Memory::access(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Span data,
                        bool write, Op op) {
    const Mkey *mkey = find(lkey);
    if (mkey == nullptr || mkey->access_mode != MLX5_MKC_ACCESS_MODE_KSM)
        return access_direct(lkey, pd, addr, data, write, op);
    if (permits(lkey, pd, addr, data, write) == nullptr)
        return Syndrome::kLocalProt;
    std::uint64_t offset = addr - mkey->start;
    const std::uint64_t piece = 1ULL << mkey->page_shift;
    while (!data.empty()) {
        const std::uint64_t index = (offset >> mkey->page_shift) * 2;
        const std::uint64_t in_piece = offset & (piece - 1);
        const std::size_t n = std::min<std::uint64_t>(data.size(), piece - in_piece);
        if (index >= mkey->mtt.size())
            return Syndrome::kLocalProt;
        const Syndrome result =
            access_direct(static_cast<std::uint32_t>(mkey->mtt[index]), pd,
                          mkey->mtt[index + 1] + in_piece, data.first(n), write, op);
        if (result != Syndrome::kOk)
            return result;
        data = data.subspan(n);
        offset += n;
    }
    return Syndrome::kOk;
}

std::uint64_t Mkey::translation(std::uint64_t as_given) const {
    return access_mode == MLX5_MKC_ACCESS_MODE_KSM ? as_given
                                                   : as_given & ~((1ULL << page_shift) - 1);
}

Syndrome Memory::read(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Bytes dst) {
    return access(lkey, pd, addr, dst, false,
                  [this](GuestAddr at, Bytes part) { return core_.dma_read(at, part); });
}

Syndrome Memory::fetch(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Bytes space,
                       std::vector<ConstBytes> &pieces) {
    return access(lkey, pd, addr, space, false, [this, &pieces](GuestAddr at, Bytes part) {
        ConstBytes piece = core_.dma_view(at, part.size());
        if (piece.empty()) {
            if (!core_.dma_read(at, part))
                return false;
            piece = part;
        }
        // Pages that follow each other also in the host are one piece.
        if (!pieces.empty() && pieces.back().data() + pieces.back().size() == piece.data())
            pieces.back() = {pieces.back().data(), pieces.back().size() + piece.size()};
        else
            pieces.push_back(piece);
        return true;
    });
}

Syndrome Memory::write(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, ConstBytes src) {
    return access(lkey, pd, addr, src, true,
                  [this](GuestAddr at, ConstBytes part) { return core_.dma_write(at, part); });
}

namespace {

constexpr std::size_t kMaxTranslationOctwords = 1U << 18;
constexpr std::size_t kAddressBytes = 256; // in a unit of WorkMeter

CommandStatus alloc_pd(Core &core, const Command &cmd) {
    Pd *pd = core.pds.create();
    if (pd == nullptr)
        return no_resources(0x200);
    IFC_SET(alloc_pd_out, cmd.out, pd, pd->id);
    return kOk;
}

CommandStatus dealloc_pd(Core &core, const Command &cmd) {
    return destroy_object(core, core.pds, IFC_GET(dealloc_pd_in, cmd.in, pd), 0x201, 0x202,
                          [](Pd &) {});
}

CommandStatus alloc_transport_domain(Core &core, const Command &cmd) {
    TransportDomain *td = core.transport_domains.create();
    if (td == nullptr)
        return no_resources(0x203);
    IFC_SET(alloc_transport_domain_out, cmd.out, transport_domain, td->id);
    return kOk;
}

CommandStatus dealloc_transport_domain(Core &core, const Command &cmd) {
    return destroy_object(core, core.transport_domains,
                          IFC_GET(dealloc_transport_domain_in, cmd.in, transport_domain), 0x204,
                          0x205, [](TransportDomain &) {});
}

CommandStatus alloc_uar(Core &core, const Command &cmd) {
    Uar *uar = core.uars.create();
    if (uar == nullptr)
        return no_resources(0x206);
    IFC_SET(alloc_uar_out, cmd.out, uar, uar->id);
    return kOk;
}

CommandStatus dealloc_uar(Core &core, const Command &cmd) {
    return destroy_object(core, core.uars, IFC_GET(dealloc_uar_in, cmd.in, uar), 0x207, 0x208,
                          [](Uar &) {});
}

CommandStatus create_mkey(Core &core, const Command &cmd) {
    const ConstBytes mkc = IFC_AT(create_mkey_in, cmd.in, memory_key_mkey_entry);
    const unsigned mode =
        IFC_GET(mkc, mkc, access_mode_4_2) << 2 | IFC_GET(mkc, mkc, access_mode_1_0);
    if (mode != MLX5_MKC_ACCESS_MODE_PA && mode != MLX5_MKC_ACCESS_MODE_MTT &&
        mode != MLX5_MKC_ACCESS_MODE_KSM)
        return bad_param(0x210);
    if (IFC_GET(create_mkey_in, cmd.in, mkey_umem_valid) != 0 || IFC_GET(mkc, mkc, bsf_en) != 0)
        return bad_param(0x211);
    Pd *pd = core.pds.find(IFC_GET(mkc, mkc, pd));
    if (pd == nullptr)
        return bad_resource(0x212);

    std::vector<std::uint64_t> mtt;
    MemoryBudget::Share share;
    unsigned page_shift = 12;
    if (mode != MLX5_MKC_ACCESS_MODE_PA) {
        const std::size_t octwords = IFC_GET(mkc, mkc, translations_octword_size);
        const std::size_t given = IFC_GET(create_mkey_in, cmd.in, translations_octword_actual_size);
        page_shift = IFC_GET(mkc, mkc, log_page_size);
        if (octwords > kMaxTranslationOctwords || given > octwords)
            return limit_exceeded(0x213);
        if (page_shift < kLogMinMkeyEntity || page_shift > 31)
            return bad_param(0x214);
        const ConstBytes list = IFC_AT(create_mkey_in, cmd.in, klm_pas_mtt);
        if (given * 16 > list.size())
            return bad_input_length(0x215);
        if (!core.take_memory(octwords * 2 * sizeof(mtt[0]), share))
            return no_resources(0x21a);
        core.work.charge_bytes(octwords * 16, kAddressBytes);
        mtt.resize(octwords * 2);
        for (std::size_t i = 0; i < given * 2; ++i)
            mtt[i] = load_be<std::uint64_t>(list.data() + i * 8);
    }
    Mkey *mkey = core.mkeys.create();
    if (mkey == nullptr)
        return no_resources(0x216);
    mkey->key = IFC_GET(mkc, mkc, mkey_7_0);
    mkey->pd = pd->id;
    mkey->access_mode = mode;
    mkey->free = IFC_GET(mkc, mkc, free) != 0;
    mkey->umr_en = IFC_GET(mkc, mkc, umr_en) != 0;
    mkey->local_read = IFC_GET(mkc, mkc, lr) != 0;
    mkey->local_write = IFC_GET(mkc, mkc, lw) != 0;
    mkey->length64 = mode == MLX5_MKC_ACCESS_MODE_PA && IFC_GET(mkc, mkc, length64) != 0;
    mkey->start = IFC_GET64(mkc, mkc, start_addr);
    mkey->length = IFC_GET64(mkc, mkc, len);
    mkey->page_shift = page_shift;
    for (std::uint64_t &entry : mtt)
        entry = mkey->translation(entry);
    mkey->mtt = std::move(mtt);
    mkey->share = std::move(share);
    mkey->context.assign(mkc.begin(), mkc.begin() + IFC_BYTES(mkc));
    ++pd->refs;
    IFC_SET(create_mkey_out, cmd.out, mkey_index, mkey->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus destroy_mkey(Core &core, const Command &cmd) {
    return destroy_object(core, core.mkeys, IFC_GET(destroy_mkey_in, cmd.in, mkey_index), 0x217,
                          0x219, [&core](Mkey &mkey) { core.pds.release(mkey.pd); });
}

CommandStatus query_mkey(Core &core, const Command &cmd) {
    const Mkey *mkey = core.mkeys.find(IFC_GET(query_mkey_in, cmd.in, mkey_index));
    if (mkey == nullptr)
        return bad_index(0x218);
    const Bytes dst = IFC_AT(query_mkey_out, cmd.out, memory_key_mkey_entry);
    std::memcpy(dst.data(), mkey->context.data(), std::min(dst.size(), mkey->context.size()));
    IFC_SET(mkc, dst, free, mkey->free);
    return kOk;
}

} // namespace

void register_memory_commands(CommandTable &t) {
    using enum CommandStage;
#define ADD(op, name, handler)                                                                     \
    t[MLX5_CMD_OP_##op] = {#op, IFC_BYTES(name##_in), IFC_BYTES(name##_out), kHcaInitialized,      \
                           handler}
    ADD(ALLOC_PD, alloc_pd, alloc_pd);
    ADD(DEALLOC_PD, dealloc_pd, dealloc_pd);
    ADD(ALLOC_TRANSPORT_DOMAIN, alloc_transport_domain, alloc_transport_domain);
    ADD(DEALLOC_TRANSPORT_DOMAIN, dealloc_transport_domain, dealloc_transport_domain);
    ADD(ALLOC_UAR, alloc_uar, alloc_uar);
    ADD(DEALLOC_UAR, dealloc_uar, dealloc_uar);
    ADD(CREATE_MKEY, create_mkey, create_mkey);
    ADD(DESTROY_MKEY, destroy_mkey, destroy_mkey);
    ADD(QUERY_MKEY, query_mkey, query_mkey);
#undef ADD
}

} // namespace connectx
