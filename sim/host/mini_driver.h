// SPDX-License-Identifier: GPL-2.0
//
// As much of a driver as tests, benchmarks and sim/dpdk need: command queue with mailboxes, the
// objects of one channel, posting and polling. Layouts come from the kernel's headers, as in the
// model. What must not fail and does goes to `failed`, which throws unless it is replaced.
#pragma once

#include "fake_host.h"

#include <quic_ifc.h>

#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace connectx::test {

using Message = std::vector<std::uint8_t>;

struct Reply {
    unsigned delivery = ~0U; ///< ~0: never completed
    std::uint8_t status = 0xff;
    std::uint32_t syndrome = 0;
    Message out;
    [[nodiscard]] bool ok() const { return delivery == 0 && status == MLX5_CMD_STAT_OK; }
};

inline Message request(unsigned opcode, std::size_t size, unsigned op_mod = 0) {
    Message in(std::max<std::size_t>(size, 16));
    IFC_SET(nop_in, Bytes(in), opcode, opcode);
    IFC_SET(nop_in, Bytes(in), op_mod, op_mod);
    return in;
}

#define REQUEST(name, op, ...)                                                                     \
    ::connectx::test::request(MLX5_CMD_OP_##op, IFC_BYTES(name##_in), ##__VA_ARGS__)

/// A ring of entries in contiguous guest memory.
struct Ring {
    std::uint64_t base = 0;
    unsigned log_size = 0;
    unsigned stride = 64;
    [[nodiscard]] std::uint32_t mask() const { return (1U << log_size) - 1; }
    [[nodiscard]] std::uint64_t entry(std::uint32_t i) const {
        return base + static_cast<std::uint64_t>(i & mask()) * stride;
    }
};

struct TestEq {
    std::uint32_t id = 0;
    Ring ring;
    std::uint32_t ci = 0;
};

struct TestCq {
    std::uint32_t id = 0;
    Ring ring;
    std::uint64_t dbr = 0;
    std::uint32_t ci = 0;
};

struct TestSq {
    std::uint32_t id = 0;
    Ring ring;
    std::uint64_t dbr = 0;
    std::uint16_t pc = 0;
    TestCq *cq = nullptr;
};

struct TestRq {
    std::uint32_t id = 0;
    Ring ring;
    std::uint64_t dbr = 0;
    std::uint16_t posted = 0;
    TestCq *cq = nullptr;
    std::vector<std::uint64_t> buffers;
    std::size_t buffer_size = 0;
};

class MiniDriver {
  public:
    explicit MiniDriver(Config config = {}, std::size_t memory = 8U << 20)
        : host(memory), dev(host, config) {
        queue_ = host.alloc(4096);
    }

    FakeHost host;
    Device dev;
    std::function<void(const std::string &)> failed = [](const std::string &what) {
        throw std::runtime_error("MiniDriver: " + what);
    };

    // --- registers -------------------------------------------------------------------------------

    std::uint32_t read32(std::uint64_t offset) {
        std::array<std::uint8_t, 4> b{};
        dev.mmio_read(offset, b);
        return load_be<std::uint32_t>(b.data());
    }
    void write32(std::uint64_t offset, std::uint32_t v) {
        std::array<std::uint8_t, 4> b{};
        store_be<std::uint32_t>(b.data(), v);
        dev.mmio_write(offset, b);
    }
    void write64(std::uint64_t offset, std::uint64_t v) {
        std::array<std::uint8_t, 8> b{};
        store_be<std::uint64_t>(b.data(), v);
        dev.mmio_write(offset, b);
    }
    /// Lets the device work until it has nothing more to do.
    void settle() {
        for (unsigned i = 0; i < 10000 && host.work_pending; ++i) {
            host.work_pending = false;
            dev.run();
        }
    }
    void advance(std::uint64_t ns) {
        const std::uint64_t end = host.now_ns + ns;
        while (host.deadline <= end) {
            host.now_ns = std::max(host.now_ns, host.deadline);
            host.deadline = UINT64_MAX;
            dev.run();
            settle();
        }
        host.now_ns = end;
        dev.run();
        settle();
    }

    // --- commands --------------------------------------------------------------------------------

    void set_queue_address() {
        write32(offsetof(mlx5_init_seg, cmdq_addr_h), queue_ >> 32);
        write32(offsetof(mlx5_init_seg, cmdq_addr_l_sz), static_cast<std::uint32_t>(queue_));
    }

    static std::uint8_t xor8(std::span<const std::uint8_t> d) {
        std::uint8_t s = 0;
        for (auto b : d)
            s ^= b;
        return s;
    }

    static constexpr unsigned kSlot = 3; ///< of each command

    struct Mangle {
        std::function<void(mlx5_cmd_layout &)> entry;
        std::function<void(unsigned block, mlx5_cmd_prot_block &, bool input)> block;
    };

    /// `intact`: what comes back is expected to be signed rightly.
    Reply command(const Message &in, std::size_t out_size, const Mangle &mangle = {},
                  bool intact = true) {
        mlx5_cmd_layout lay{};
        const std::uint8_t token = ++token_ == 0 ? ++token_ : token_;
        std::memcpy(lay.in, in.data(), std::min<std::size_t>(in.size(), sizeof(lay.in)));
        const auto in_blocks = chain(in, true, token, mangle);
        const auto out_blocks = chain(Message(out_size), false, token, mangle);
        lay.type = MLX5_PCI_CMD_XPORT;
        lay.inlen = cpu_to_be32(static_cast<std::uint32_t>(in.size()));
        lay.outlen = cpu_to_be32(static_cast<std::uint32_t>(out_size));
        lay.in_ptr = cpu_to_be64(in_blocks.empty() ? 0 : in_blocks.front());
        lay.out_ptr = cpu_to_be64(out_blocks.empty() ? 0 : out_blocks.front());
        lay.token = token;
        lay.status_own = 1;
        if (mangle.entry)
            mangle.entry(lay);
        if (lay.sig == 0)
            lay.sig = ~xor8({reinterpret_cast<std::uint8_t *>(&lay), sizeof(lay)});
        const std::uint64_t slot = queue_ + kSlot * sizeof(lay);
        std::memcpy(host.at(slot), &lay, sizeof(lay));
        write32(offsetof(mlx5_init_seg, cmd_dbell), 1U << kSlot);
        settle();
        std::memcpy(&lay, host.at(slot), sizeof(lay));
        Reply r;
        if ((lay.status_own & 1) != 0)
            return r;
        r.delivery = lay.status_own >> 1;
        if (intact)
            expect(xor8({reinterpret_cast<std::uint8_t *>(&lay), sizeof(lay)}) == 0xff,
                   "a reply is not signed");
        r.out.resize(out_size);
        std::memcpy(r.out.data(), lay.out, std::min<std::size_t>(out_size, sizeof(lay.out)));
        for (std::size_t i = 0, off = 16; i < out_blocks.size(); ++i, off += 512)
            std::memcpy(r.out.data() + off, host.at(out_blocks[i]),
                        std::min<std::size_t>(512, out_size - off));
        r.status = IFC_GET(nop_out, ConstBytes(r.out), status);
        r.syndrome = IFC_GET(nop_out, ConstBytes(r.out), syndrome);
        return r;
    }

    /// What the descriptor of the last command says now, without mailboxes.
    Reply answer(std::size_t out_size) {
        mlx5_cmd_layout lay;
        std::memcpy(&lay, host.at(queue_ + kSlot * sizeof(lay)), sizeof(lay));
        Reply r;
        if ((lay.status_own & 1) != 0)
            return r;
        r.delivery = lay.status_own >> 1;
        r.out.resize(std::min<std::size_t>(out_size, sizeof(lay.out)));
        std::memcpy(r.out.data(), lay.out, r.out.size());
        r.status = IFC_GET(nop_out, ConstBytes(r.out), status);
        r.syndrome = IFC_GET(nop_out, ConstBytes(r.out), syndrome);
        return r;
    }

    /// A command that has to succeed.
    Message must(const Message &in, std::size_t out_size) {
        const Reply r = command(in, out_size);
        expect(r.ok(),
               format("opcode %#x delivery %u status %#x syndrome %#x",
                      IFC_GET(nop_in, ConstBytes(in), opcode), r.delivery, r.status, r.syndrome));
        return r.out;
    }

    // --- bring-up --------------------------------------------------------------------------------

    void give_pages(unsigned op_mod) {
        auto q = REQUEST(query_pages, QUERY_PAGES, op_mod);
        const Message out = must(q, IFC_BYTES(query_pages_out));
        give(IFC_GET(query_pages_out, ConstBytes(out), num_pages));
    }

    void give(std::size_t n) {
        auto in = request(MLX5_CMD_OP_MANAGE_PAGES, IFC_BYTES(manage_pages_in) + n * 8, 1);
        IFC_SET(manage_pages_in, Bytes(in), input_num_entries, n);
        for (std::size_t i = 0; i < n; ++i)
            store_be<std::uint64_t>(in.data() + IFC_BYTES(manage_pages_in) + i * 8,
                                    0x8000'0000 + (next_page_++) * 4096);
        must(in, IFC_BYTES(manage_pages_out));
    }

    void init() {
        set_queue_address();
        must(REQUEST(enable_hca, ENABLE_HCA), IFC_BYTES(enable_hca_out));
        auto issi = REQUEST(set_issi, SET_ISSI);
        IFC_SET(set_issi_in, Bytes(issi), current_issi, 1);
        must(issi, IFC_BYTES(set_issi_out));
        give_pages(1);
        give_pages(2);
        must(REQUEST(init_hca, INIT_HCA), IFC_BYTES(init_hca_out));
    }

    /// Link up, UAR, PD, transport domain, an EQ for commands and events, one for completions.
    void open() {
        init();
        set_admin(true);
        uar =
            IFC_GET(alloc_uar_out,
                    ConstBytes(must(REQUEST(alloc_uar, ALLOC_UAR), IFC_BYTES(alloc_uar_out))), uar);
        pd = IFC_GET(alloc_pd_out,
                     ConstBytes(must(REQUEST(alloc_pd, ALLOC_PD), IFC_BYTES(alloc_pd_out))), pd);
        td = IFC_GET(alloc_transport_domain_out,
                     ConstBytes(must(REQUEST(alloc_transport_domain, ALLOC_TRANSPORT_DOMAIN),
                                     IFC_BYTES(alloc_transport_domain_out))),
                     transport_domain);
        async_eq =
            create_eq(0, 1ULL << MLX5_EVENT_TYPE_PORT_CHANGE | 1ULL << MLX5_EVENT_TYPE_CQ_ERROR |
                             1ULL << MLX5_EVENT_TYPE_PAGE_REQUEST);
        comp_eq = create_eq(1, 0);
        auto mk = REQUEST(create_mkey, CREATE_MKEY);
        const Bytes mkc = IFC_AT(create_mkey_in, Bytes(mk), memory_key_mkey_entry);
        IFC_SET(mkc, mkc, lr, 1);
        IFC_SET(mkc, mkc, lw, 1);
        IFC_SET(mkc, mkc, length64, 1);
        IFC_SET(mkc, mkc, pd, pd);
        IFC_SET(mkc, mkc, mkey_7_0, 0x42);
        lkey =
            IFC_GET(create_mkey_out, ConstBytes(must(mk, IFC_BYTES(create_mkey_out))), mkey_index)
                << 8 |
            0x42;
    }

    Message access_register(unsigned reg, const Message &data, bool write,
                            std::uint8_t *status = nullptr) {
        auto in = request(MLX5_CMD_OP_ACCESS_REG, IFC_BYTES(access_register_in) + data.size(),
                          write ? 0 : 1);
        IFC_SET(access_register_in, Bytes(in), register_id, reg);
        std::copy(data.begin(), data.end(), in.begin() + IFC_BYTES(access_register_in));
        const Reply r = command(in, IFC_BYTES(access_register_out) + data.size());
        if (status != nullptr)
            *status = r.status;
        else
            expect(r.ok(), format("register %#x syndrome %#x", reg, r.syndrome));
        return {r.out.begin() + IFC_BYTES(access_register_out), r.out.end()};
    }

    /// After a reset: the next SQ gets a TIS of its own.
    void reset_tis() { tis_ = 0; }

    void set_admin(bool up) {
        Message paos(IFC_BYTES(paos_reg));
        IFC_SET(paos_reg, Bytes(paos), local_port, 1);
        IFC_SET(paos_reg, Bytes(paos), admin_status, up ? 1 : 2);
        IFC_SET(paos_reg, Bytes(paos), ase, 1);
        access_register(MLX5_REG_PAOS, paos, true);
    }

    // --- objects ---------------------------------------------------------------------------------

    TestEq create_eq(unsigned vector, std::uint64_t mask, unsigned log_size = 6) {
        TestEq eq;
        eq.ring = {host.alloc(64U << log_size), log_size, 64};
        for (std::uint32_t i = 0; i <= eq.ring.mask(); ++i)
            host.at(eq.ring.entry(i))[63] = 1;
        const std::size_t pages = pages_of(64U << log_size);
        auto in = request(MLX5_CMD_OP_CREATE_EQ, IFC_BYTES(create_eq_in) + pages * 8);
        const Bytes eqc = IFC_AT(create_eq_in, Bytes(in), eq_context_entry);
        IFC_SET(eqc, eqc, log_eq_size, log_size);
        IFC_SET(eqc, eqc, uar_page, uar);
        IFC_SET(eqc, eqc, intr, vector);
        store_be<std::uint64_t>(IFC_AT(create_eq_in, Bytes(in), event_bitmask).data(), mask);
        put_pages(IFC_AT(create_eq_in, Bytes(in), pas), eq.ring.base, pages);
        eq.id = IFC_GET(create_eq_out, ConstBytes(must(in, IFC_BYTES(create_eq_out))), eq_number);
        arm(eq);
        return eq;
    }

    void arm(const TestEq &eq) {
        write32((static_cast<std::uint64_t>(uar) << 12) + 0x40, eq.id << 24 | (eq.ci & 0xffffff));
    }

    /// The next event, or null.
    const mlx5_eqe *poll(TestEq &eq) {
        const auto *eqe = reinterpret_cast<mlx5_eqe *>(host.at(eq.ring.entry(eq.ci)));
        const bool phase = (eq.ci >> eq.ring.log_size & 1) != 0;
        if (((eqe->owner & 1) != 0) != phase)
            return nullptr;
        ++eq.ci;
        return eqe;
    }

    TestCq create_cq(unsigned log_size = 6, unsigned period = 0, unsigned count = 0) {
        TestCq cq;
        cq.ring = {host.alloc(64U << log_size), log_size, 64};
        for (std::uint32_t i = 0; i <= cq.ring.mask(); ++i)
            host.at(cq.ring.entry(i))[63] = 0xf1;
        cq.dbr = host.alloc(64, 64);
        const std::size_t pages = pages_of(64U << log_size);
        auto in = request(MLX5_CMD_OP_CREATE_CQ, IFC_BYTES(create_cq_in) + pages * 8);
        const Bytes cqc = IFC_AT(create_cq_in, Bytes(in), cq_context);
        IFC_SET(cqc, cqc, log_cq_size, log_size);
        IFC_SET(cqc, cqc, uar_page, uar);
        IFC_SET(cqc, cqc, c_eqn_or_apu_element, comp_eq.id);
        IFC_SET(cqc, cqc, cq_period, period);
        IFC_SET(cqc, cqc, cq_max_count, count);
        IFC_SET64(cqc, cqc, dbr_addr, cq.dbr);
        put_pages(IFC_AT(create_cq_in, Bytes(in), pas), cq.ring.base, pages);
        cq.id = IFC_GET(create_cq_out, ConstBytes(must(in, IFC_BYTES(create_cq_out))), cqn);
        return cq;
    }

    const mlx5_cqe64 *poll(TestCq &cq) {
        const auto *cqe = reinterpret_cast<mlx5_cqe64 *>(host.at(cq.ring.entry(cq.ci)));
        const bool phase = (cq.ci >> cq.ring.log_size & 1) != 0;
        if ((cqe->op_own >> 4) == MLX5_CQE_INVALID || ((cqe->op_own & 1) != 0) != phase)
            return nullptr;
        ++cq.ci;
        host.put<std::uint32_t>(cq.dbr, cq.ci & 0xffffff);
        return cqe;
    }

    void arm(const TestCq &cq) {
        write64((static_cast<std::uint64_t>(uar) << 12) + 0x20,
                static_cast<std::uint64_t>(cq.ci & 0xffffff) << 32 | cq.id);
    }

    /// An SA in the device's database; its index. `cipher` as in the interface
    /// (MLX5_QUIC_CIPHER_*).
    std::uint32_t create_sa(unsigned cipher, ConstBytes key, ConstBytes iv, ConstBytes hp,
                            std::uint32_t tag) {
        auto in = REQUEST(create_quic_sa, CREATE_GENERAL_OBJECT);
        IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
        const Bytes obj = IFC_AT(create_quic_sa_in, Bytes(in), quic_sa_object);
        IFC_SET(quic_sa_obj, obj, cipher, cipher);
        IFC_SET(quic_sa_obj, obj, pd, pd);
        IFC_SET(quic_sa_obj, obj, tag, tag);
        std::copy(iv.begin(), iv.end(), IFC_AT(quic_sa_obj, obj, iv).begin());
        std::copy(key.begin(), key.end(), IFC_AT(quic_sa_obj, obj, key).begin());
        std::copy(hp.begin(), hp.end(), IFC_AT(quic_sa_obj, obj, hp_key).begin());
        const Message out = must(in, IFC_BYTES(general_obj_out_cmd_hdr));
        return IFC_GET(general_obj_out_cmd_hdr, ConstBytes(out), obj_id);
    }

    std::uint32_t create_tis() {
        auto in = REQUEST(create_tis, CREATE_TIS);
        IFC_SET(create_tis_in, Bytes(in), ctx.transport_domain, td);
        return IFC_GET(create_tis_out, ConstBytes(must(in, IFC_BYTES(create_tis_out))), tisn);
    }

    Message sq_request(TestSq &sq, unsigned log_size) {
        const std::size_t pages = pages_of(64U << log_size);
        auto in = request(MLX5_CMD_OP_CREATE_SQ, IFC_BYTES(create_sq_in) + pages * 8);
        const Bytes sqc = IFC_AT(create_sq_in, Bytes(in), ctx);
        IFC_SET(sqc, sqc, cqn, sq.cq->id);
        IFC_SET(sqc, sqc, tis_lst_sz, 1);
        IFC_SET(sqc, sqc, tis_num_0, tis_);
        IFC_SET(sqc, sqc, flush_in_error_en, 1);
        IFC_SET(sqc, sqc, reg_umr, 1);
        fill_wq(IFC_AT(sqc, sqc, wq), MLX5_WQ_TYPE_CYCLIC, 6, log_size, sq.dbr, sq.ring.base,
                pages);
        return in;
    }

    TestSq create_sq(TestCq &cq, unsigned log_size = 6) {
        TestSq sq;
        sq.cq = &cq;
        sq.ring = {host.alloc(64U << log_size), log_size, 64};
        sq.dbr = host.alloc(64, 64);
        if (tis_ == 0)
            tis_ = create_tis();
        sq.id = IFC_GET(create_sq_out,
                        ConstBytes(must(sq_request(sq, log_size), IFC_BYTES(create_sq_out))), sqn);
        expect(modify_sq(sq, 0, 1).ok(), "a queue does not start");
        return sq;
    }

    Reply modify_sq(const TestSq &sq, unsigned from, unsigned to) {
        auto in = REQUEST(modify_sq, MODIFY_SQ);
        IFC_SET(modify_sq_in, Bytes(in), sqn, sq.id);
        IFC_SET(modify_sq_in, Bytes(in), sq_state, from);
        IFC_SET(modify_sq_in, Bytes(in), ctx.state, to);
        return command(in, IFC_BYTES(modify_sq_out));
    }

    Reply modify_rq(const TestRq &rq, unsigned from, unsigned to) {
        auto in = REQUEST(modify_rq, MODIFY_RQ);
        IFC_SET(modify_rq_in, Bytes(in), rqn, rq.id);
        IFC_SET(modify_rq_in, Bytes(in), rq_state, from);
        IFC_SET(modify_rq_in, Bytes(in), ctx.state, to);
        return command(in, IFC_BYTES(modify_rq_out));
    }

    struct RqOptions {
        unsigned type = MLX5_WQ_TYPE_CYCLIC;
        unsigned log_size = 4;
        std::size_t buffer_size = 2048;
        bool vsd = false;
        unsigned log_stride_size = 8;
        unsigned log_num_strides = 4;
        unsigned counter_set = 0;
        unsigned log_wqe = 0; ///< log2 of a WQE's bytes; 0: as small as the type allows
    };

    TestRq create_rq(TestCq &cq, const RqOptions &o) {
        TestRq rq;
        rq.cq = &cq;
        const bool striding = o.type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ ||
                              o.type == MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ;
        const bool linked =
            o.type == MLX5_WQ_TYPE_LINKED_LIST || o.type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ;
        const unsigned log_stride = o.log_wqe != 0 ? o.log_wqe : linked ? 5 : 4;
        rq.ring = {host.alloc(1U << (log_stride + o.log_size)), o.log_size, 1U << log_stride};
        rq.dbr = host.alloc(64, 64);
        rq.buffer_size = striding ? 1UL << (o.log_stride_size + o.log_num_strides) : o.buffer_size;
        const std::size_t pages = pages_of(1U << (log_stride + o.log_size));
        auto in = request(MLX5_CMD_OP_CREATE_RQ, IFC_BYTES(create_rq_in) + pages * 8);
        const Bytes rqc = IFC_AT(create_rq_in, Bytes(in), ctx);
        IFC_SET(rqc, rqc, cqn, cq.id);
        IFC_SET(rqc, rqc, vsd, o.vsd);
        IFC_SET(rqc, rqc, flush_in_error_en, 1);
        IFC_SET(rqc, rqc, counter_set_id, o.counter_set);
        const Bytes wq = IFC_AT(rqc, rqc, wq);
        fill_wq(wq, o.type, log_stride, o.log_size, rq.dbr, rq.ring.base, pages);
        if (striding) {
            IFC_SET(wq, wq, log_wqe_num_of_strides,
                    (o.log_num_strides - MLX5_MPWQE_LOG_NUM_STRIDES_BASE) & 0xf);
            IFC_SET(wq, wq, log_wqe_stride_size, o.log_stride_size - MLX5_MPWQE_LOG_STRIDE_SZ_BASE);
        }
        rq.id = IFC_GET(create_rq_out, ConstBytes(must(in, IFC_BYTES(create_rq_out))), rqn);
        expect(modify_rq(rq, 0, 1).ok(), "a queue does not start");
        for (std::uint32_t i = 0; i <= rq.ring.mask(); ++i)
            rq.buffers.push_back(host.alloc(rq.buffer_size, 64));
        fill(rq, o.type);
        return rq;
    }

    /// Writes every WQE of the queue: its one buffer, and in a list the next one.
    void fill(TestRq &rq, unsigned type) {
        const bool linked =
            type == MLX5_WQ_TYPE_LINKED_LIST || type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ;
        for (std::uint32_t i = 0; i <= rq.ring.mask(); ++i) {
            std::uint8_t *wqe = host.at(rq.ring.entry(i));
            if (linked) {
                store_be<std::uint16_t>(wqe + 2,
                                        static_cast<std::uint16_t>((i + 1) & rq.ring.mask()));
                wqe += 16;
            }
            store_be<std::uint32_t>(wqe, static_cast<std::uint32_t>(rq.buffer_size));
            store_be<std::uint32_t>(wqe + 4, lkey);
            store_be<std::uint64_t>(wqe + 8, rq.buffers[i]);
        }
    }

    void post(TestRq &rq, unsigned n) {
        rq.posted = static_cast<std::uint16_t>(rq.posted + n);
        host.put<std::uint32_t>(rq.dbr, rq.posted);
    }

    std::uint32_t create_rqt(const std::vector<std::uint32_t> &rqns) {
        auto in = request(MLX5_CMD_OP_CREATE_RQT, IFC_BYTES(create_rqt_in) + rqns.size() * 4);
        const Bytes ctx = IFC_AT(create_rqt_in, Bytes(in), rqt_context);
        IFC_SET(rqtc, ctx, rqt_max_size, rqns.size());
        IFC_SET(rqtc, ctx, rqt_actual_size, rqns.size());
        for (std::size_t i = 0; i < rqns.size(); ++i)
            store_be<std::uint32_t>(IFC_AT(rqtc, ctx, rq_num).data() + i * 4, rqns[i]);
        return IFC_GET(create_rqt_out, ConstBytes(must(in, IFC_BYTES(create_rqt_out))), rqtn);
    }

    std::uint32_t create_tir(std::uint32_t rqn, unsigned self_lb = 0) {
        auto in = REQUEST(create_tir, CREATE_TIR);
        IFC_SET(create_tir_in, Bytes(in), ctx.transport_domain, td);
        IFC_SET(create_tir_in, Bytes(in), ctx.inline_rqn, rqn);
        IFC_SET(create_tir_in, Bytes(in), ctx.self_lb_block, self_lb);
        return IFC_GET(create_tir_out, ConstBytes(must(in, IFC_BYTES(create_tir_out))), tirn);
    }

    std::uint32_t create_table(unsigned level, unsigned log_size, std::uint32_t miss = 0) {
        auto in = REQUEST(create_flow_table, CREATE_FLOW_TABLE);
        IFC_SET(create_flow_table_in, Bytes(in), flow_table_context.level, level);
        IFC_SET(create_flow_table_in, Bytes(in), flow_table_context.log_size, log_size);
        IFC_SET(create_flow_table_in, Bytes(in), flow_table_context.table_miss_action, miss != 0);
        IFC_SET(create_flow_table_in, Bytes(in), flow_table_context.table_miss_id, miss);
        return IFC_GET(create_flow_table_out,
                       ConstBytes(must(in, IFC_BYTES(create_flow_table_out))), table_id);
    }

    Message group_request(std::uint32_t table, unsigned start, unsigned end,
                          const std::function<void(Bytes)> &criteria) {
        auto in = REQUEST(create_flow_group, CREATE_FLOW_GROUP);
        IFC_SET(create_flow_group_in, Bytes(in), table_id, table);
        IFC_SET(create_flow_group_in, Bytes(in), start_flow_index, start);
        IFC_SET(create_flow_group_in, Bytes(in), end_flow_index, end);
        if (criteria) {
            IFC_SET(create_flow_group_in, Bytes(in), match_criteria_enable,
                    MLX5_MATCH_OUTER_HEADERS);
            criteria(IFC_AT(create_flow_group_in, Bytes(in), match_criteria));
        }
        return in;
    }

    std::uint32_t create_group(std::uint32_t table, unsigned start, unsigned end,
                               const std::function<void(Bytes)> &criteria = {}) {
        return IFC_GET(create_flow_group_out,
                       ConstBytes(must(group_request(table, start, end, criteria),
                                       IFC_BYTES(create_flow_group_out))),
                       group_id);
    }

    Message fte_request(std::uint32_t table, std::uint32_t group, unsigned index,
                        const std::vector<std::pair<unsigned, std::uint32_t>> &dests,
                        const std::function<void(Bytes)> &value = {},
                        unsigned action = MLX5_FLOW_CONTEXT_ACTION_FWD_DEST, unsigned tag = 0) {
        auto in = request(MLX5_CMD_OP_SET_FLOW_TABLE_ENTRY,
                          IFC_BYTES(set_fte_in) + dests.size() * IFC_BYTES(dest_format_struct));
        IFC_SET(set_fte_in, Bytes(in), table_id, table);
        IFC_SET(set_fte_in, Bytes(in), flow_index, index);
        const Bytes ctx = IFC_AT(set_fte_in, Bytes(in), flow_context);
        IFC_SET(flow_context, ctx, group_id, group);
        IFC_SET(flow_context, ctx, action, action);
        IFC_SET(flow_context, ctx, flow_tag, tag);
        IFC_SET(flow_context, ctx, destination_list_size, dests.size());
        if (value)
            value(IFC_AT(flow_context, ctx, match_value));
        Bytes list = IFC_AT(flow_context, ctx, destination);
        for (const auto &[type, id] : dests) {
            IFC_SET(dest_format_struct, list, destination_type, type);
            IFC_SET(dest_format_struct, list, destination_id, id);
            list = list.subspan(IFC_BYTES(dest_format_struct));
        }
        return in;
    }

    void set_root(std::uint32_t table) {
        auto in = REQUEST(set_flow_table_root, SET_FLOW_TABLE_ROOT);
        IFC_SET(set_flow_table_root_in, Bytes(in), table_id, table);
        must(in, IFC_BYTES(set_flow_table_root_out));
    }

    /// A table that sends everything to one TIR.
    void steer_all_to(std::uint32_t tirn) {
        const auto table = create_table(1, 4);
        const auto group = create_group(table, 0, 0);
        must(fte_request(table, group, 0, {{MLX5_IFC_FLOW_DESTINATION_TYPE_TIR, tirn}}),
             IFC_BYTES(set_fte_out));
        set_root(table);
    }

    // --- sending ---------------------------------------------------------------------------------

    /// Puts a WQE into the ring, rings the doorbell and lets the device work.
    void post(TestSq &sq, unsigned opcode, const Message &segments, bool signaled = true,
              bool ring = true) {
        const std::size_t ds = (16 + segments.size() + 15) / 16;
        Message wqe(ds * 16);
        store_be<std::uint32_t>(wqe.data(), static_cast<std::uint32_t>(sq.pc) << 8 | opcode);
        store_be<std::uint32_t>(wqe.data() + 4, sq.id << 8 | static_cast<std::uint32_t>(ds));
        wqe[11] = signaled ? MLX5_WQE_CTRL_CQ_UPDATE : 0;
        std::copy(segments.begin(), segments.end(), wqe.begin() + 16);
        for (std::size_t off = 0; off < wqe.size(); off += 64)
            std::memcpy(host.at(sq.ring.entry(sq.pc + off / 64)), wqe.data() + off,
                        std::min<std::size_t>(64, wqe.size() - off));
        const auto first = sq.pc;
        sq.pc = static_cast<std::uint16_t>(sq.pc + (ds + 3) / 4);
        if (ring)
            doorbell(sq, first);
    }

    void doorbell(TestSq &sq, std::uint16_t first) {
        host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
        write64((static_cast<std::uint64_t>(uar) << 12) + 0x800,
                host.get<std::uint64_t>(sq.ring.entry(first)));
        settle();
    }

    struct EthOptions {
        unsigned cs_flags = 0;
        unsigned mss = 0;
        Message inline_header;
        int vlan = -1;
        bool svlan = false;
    };

    /// Ethernet segment and data segments; the data is copied into guest memory.
    Message eth_segments(const EthOptions &o, const std::vector<Message> &data) {
        Message seg(16);
        seg[4] = static_cast<std::uint8_t>(o.cs_flags);
        store_be<std::uint16_t>(seg.data() + 6, static_cast<std::uint16_t>(o.mss));
        if (o.vlan >= 0) {
            store_be<std::uint16_t>(seg.data() + 12,
                                    MLX5_ETH_WQE_INSERT_VLAN | (o.svlan ? MLX5_ETH_WQE_SVLAN : 0));
            store_be<std::uint16_t>(seg.data() + 14, static_cast<std::uint16_t>(o.vlan));
        } else if (!o.inline_header.empty()) {
            store_be<std::uint16_t>(seg.data() + 12,
                                    static_cast<std::uint16_t>(o.inline_header.size()));
            seg.resize(14);
            seg.insert(seg.end(), o.inline_header.begin(), o.inline_header.end());
            seg.resize((seg.size() + 15) / 16 * 16);
        }
        for (const Message &d : data) {
            const std::uint64_t addr = host.alloc(d.size(), 64);
            std::copy(d.begin(), d.end(), host.at(addr));
            Message s(16);
            store_be<std::uint32_t>(s.data(), static_cast<std::uint32_t>(d.size()));
            store_be<std::uint32_t>(s.data() + 4, lkey);
            store_be<std::uint64_t>(s.data() + 8, addr);
            seg.insert(seg.end(), s.begin(), s.end());
        }
        return seg;
    }

    std::uint32_t uar = 0;
    std::uint32_t pd = 0;
    std::uint32_t td = 0;
    std::uint32_t lkey = 0;
    TestEq async_eq;
    TestEq comp_eq;

  private:
    void expect(bool ok, const std::string &what) const {
        if (!ok)
            failed(what);
    }
    template <typename... Args> static std::string format(const char *fmt, Args... args) {
        std::array<char, 160> text{};
        std::snprintf(text.data(), text.size(), fmt, args...);
        return text.data();
    }
    static std::size_t pages_of(std::size_t bytes) { return (bytes + 4095) / 4096; }
    static void put_pages(Bytes pas, std::uint64_t base, std::size_t pages) {
        for (std::size_t i = 0; i < pages; ++i)
            store_be<std::uint64_t>(pas.data() + i * 8, base + i * 4096);
    }
    void fill_wq(Bytes wq, unsigned type, unsigned log_stride, unsigned log_size, std::uint64_t dbr,
                 std::uint64_t base, std::size_t pages) const {
        IFC_SET(wq, wq, wq_type, type);
        IFC_SET(wq, wq, pd, pd);
        IFC_SET(wq, wq, uar_page, uar);
        IFC_SET(wq, wq, log_wq_stride, log_stride);
        IFC_SET(wq, wq, log_wq_sz, log_size);
        IFC_SET64(wq, wq, dbr_addr, dbr);
        put_pages(IFC_AT(wq, wq, pas), base, pages);
    }
    std::vector<std::uint64_t> chain(const Message &m, bool input, std::uint8_t token,
                                     const Mangle &mangle) {
        std::vector<std::uint64_t> blocks;
        if (m.size() <= 16)
            return blocks;
        const std::size_t n = (m.size() - 16 + 511) / 512;
        auto &pool = mailboxes_[input];
        while (pool.size() < n)
            pool.push_back(host.alloc(1024, 1024));
        for (std::size_t i = 0; i < n; ++i) {
            mlx5_cmd_prot_block b{};
            const std::size_t off = 16 + i * 512;
            if (input)
                std::memcpy(b.data, m.data() + off, std::min<std::size_t>(512, m.size() - off));
            b.next = cpu_to_be64(i + 1 < n ? pool[i + 1] : 0);
            b.block_num = cpu_to_be32(static_cast<std::uint32_t>(i));
            b.token = token;
            auto *raw = reinterpret_cast<std::uint8_t *>(&b);
            b.ctrl_sig = ~xor8({raw + 512, offsetof(mlx5_cmd_prot_block, ctrl_sig) - 512});
            b.sig = ~xor8({raw, sizeof(b) - 1});
            if (mangle.block)
                mangle.block(static_cast<unsigned>(i), b, input);
            std::memcpy(host.at(pool[i]), &b, sizeof(b));
            blocks.push_back(pool[i]);
        }
        return blocks;
    }

    std::uint64_t queue_ = 0;
    std::uint8_t token_ = 0;
    std::uint64_t next_page_ = 0;
    std::uint32_t tis_ = 0;
    std::map<bool, std::vector<std::uint64_t>> mailboxes_;
};

} // namespace connectx::test
