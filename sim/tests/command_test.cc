// SPDX-License-Identifier: GPL-2.0
//
// Initialization segment, command interface, bring-up and tear-down, pages, capabilities.
#include "mini_driver.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

TEST(InitSegment, ShowsWhatTheDriverChecksFirst) {
    MiniDriver d;
    EXPECT_EQ(d.read32(offsetof(mlx5_init_seg, cmdif_rev_fw_sub)) >> 16, 5U);
    EXPECT_EQ(d.read32(offsetof(mlx5_init_seg, initializing)) >> 31, 0U);
    const auto sz = d.read32(offsetof(mlx5_init_seg, cmdq_addr_l_sz));
    EXPECT_EQ(sz >> 4 & 0xf, 5U);
    EXPECT_EQ(sz & 0xf, 6U);
    EXPECT_EQ(sz >> 8 & 7, 0U);
}

TEST(InitSegment, HealthCounterAndTimersRun) {
    MiniDriver d;
    const auto counter = d.read32(offsetof(mlx5_init_seg, health_counter));
    const auto timer = d.read32(offsetof(mlx5_init_seg, internal_timer_l));
    d.host.now_ns += 1'000'000'000;
    EXPECT_NE(d.read32(offsetof(mlx5_init_seg, health_counter)), counter);
    EXPECT_EQ(d.read32(offsetof(mlx5_init_seg, internal_timer_l)) - timer, 1'000'000'000U);
}

TEST(InitSegment, OddAccessesStayInside) {
    MiniDriver d;
    for (std::size_t size = 1; size <= 8; ++size)
        for (std::uint64_t at : {0ULL, 1ULL, 0x1ff9ULL, 0x1fffULL, 0x2001ULL, 0x1ffffffULL - 8}) {
            std::vector<std::uint8_t> data(size, 0xff);
            d.dev.mmio_write(at, data);
            d.dev.mmio_read(at, data);
        }
}

TEST(Command, RunsThroughMailboxes) {
    MiniDriver d;
    d.set_queue_address();
    d.must(REQUEST(enable_hca, ENABLE_HCA), IFC_BYTES(enable_hca_out));
    auto in = REQUEST(query_hca_cap, QUERY_HCA_CAP, MLX5_CAP_GENERAL << 1 | HCA_CAP_OPMOD_GET_MAX);
    const Message out = d.must(in, IFC_BYTES(query_hca_cap_out));
    const ConstBytes cap = IFC_AT(query_hca_cap_out, ConstBytes(out), capability);
    EXPECT_EQ(IFC_GET(cmd_hca_cap, cap, port_type), 1U);
    EXPECT_EQ(IFC_GET(cmd_hca_cap, cap, num_ports), 1U);
    EXPECT_EQ(IFC_GET(cmd_hca_cap, cap, eswitch_manager), 0U);
    EXPECT_EQ(IFC_GET(cmd_hca_cap, cap, roce), 0U);
}

TEST(Command, CompletionOfCreateEqIsNoEventInThatEq) {
    MiniDriver d;
    d.open();
    const auto polled = [&](const TestEq &eq) { return d.host.at(eq.ring.entry(0))[63] & 1; };
    const TestEq eq = d.create_eq(1, 1ULL << MLX5_EVENT_TYPE_CMD);
    EXPECT_EQ(polled(eq), 1) << "an event was written";
    d.must(REQUEST(nop, NOP), IFC_BYTES(nop_out));
    EXPECT_EQ(polled(eq), 0);
}

TEST(Command, UnknownOpcodeIsAnsweredAndCounted) {
    MiniDriver d;
    d.init();
    const Reply r = d.command(request(0x0fff, 16), 16);
    EXPECT_EQ(r.delivery, 0U);
    EXPECT_EQ(r.status, MLX5_CMD_STAT_BAD_OP_ERR);
    EXPECT_NE(r.syndrome, 0U);
    EXPECT_EQ(d.dev.stats().commands_unknown, 1U);
    EXPECT_NE(d.dev.describe().find("not modelled"), std::string::npos);
}

TEST(Command, LengthsAreChecked) {
    MiniDriver d;
    d.init();
    EXPECT_EQ(d.command(request(MLX5_CMD_OP_CREATE_CQ, 64), 16).status,
              MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_EQ(d.command(REQUEST(query_hca_cap, QUERY_HCA_CAP), 32).status,
              MLX5_CMD_STAT_BAD_OUTP_LEN_ERR);
}

TEST(Command, WrongStageIsRefused) {
    MiniDriver d;
    d.set_queue_address();
    EXPECT_EQ(d.command(REQUEST(query_issi, QUERY_ISSI), IFC_BYTES(query_issi_out)).status,
              MLX5_CMD_STAT_BAD_SYS_STATE_ERR);
    d.must(REQUEST(enable_hca, ENABLE_HCA), IFC_BYTES(enable_hca_out));
    EXPECT_EQ(d.command(REQUEST(alloc_pd, ALLOC_PD), IFC_BYTES(alloc_pd_out)).status,
              MLX5_CMD_STAT_BAD_SYS_STATE_ERR);
}

struct DeliveryCase {
    const char *name;
    unsigned expected;
    MiniDriver::Mangle mangle;
};

class Delivery : public testing::TestWithParam<DeliveryCase> {};

TEST_P(Delivery, ErrorIsReportedInTheDescriptor) {
    MiniDriver d;
    d.set_queue_address();
    d.must(REQUEST(enable_hca, ENABLE_HCA), IFC_BYTES(enable_hca_out));
    auto in = REQUEST(query_hca_cap, QUERY_HCA_CAP, 0);
    in.resize(1600);
    const Reply r = d.command(in, IFC_BYTES(query_hca_cap_out), GetParam().mangle);
    EXPECT_EQ(r.delivery, GetParam().expected);
    EXPECT_EQ(d.dev.stats().delivery_errors, 1U);
    // The next command works as if nothing had been.
    d.must(REQUEST(query_issi, QUERY_ISSI), IFC_BYTES(query_issi_out));
}

INSTANTIATE_TEST_SUITE_P(
    Command, Delivery,
    testing::Values(
        DeliveryCase{"Signature", 0x1, {[](mlx5_cmd_layout &l) { l.sig = 0x5a; }, {}}},
        DeliveryCase{"InputToken",
                     0x2,
                     {{},
                      [](unsigned n, mlx5_cmd_prot_block &b, bool in) {
                          if (in && n == 1)
                              ++b.token;
                      }}},
        DeliveryCase{"OutputToken",
                     0x2,
                     {{},
                      [](unsigned n, mlx5_cmd_prot_block &b, bool in) {
                          if (!in && n == 2)
                              ++b.token;
                      }}},
        DeliveryCase{"BlockNumber",
                     0x3,
                     {{},
                      [](unsigned, mlx5_cmd_prot_block &b, bool in) {
                          if (in)
                              b.block_num = cpu_to_be32(7);
                      }}},
        DeliveryCase{
            "OutputPointer",
            0x4,
            {[](mlx5_cmd_layout &l) { l.out_ptr = cpu_to_be64(FakeHost::kBase + 8); }, {}}},
        DeliveryCase{"InputPointer",
                     0x5,
                     {[](mlx5_cmd_layout &l) { l.in_ptr = cpu_to_be64(FakeHost::kBase + 8); }, {}}},
        DeliveryCase{"InputNotMemory",
                     0x6,
                     {[](mlx5_cmd_layout &l) { l.in_ptr = cpu_to_be64(0x1000); }, {}}},
        DeliveryCase{"ChainEnds",
                     0x5,
                     {{},
                      [](unsigned, mlx5_cmd_prot_block &b, bool in) {
                          if (in)
                              b.next = 0;
                      }}},
        DeliveryCase{"InputTooLong",
                     0x7,
                     {[](mlx5_cmd_layout &l) { l.inlen = cpu_to_be32(0x7fffffff); }, {}}},
        DeliveryCase{"OutputTooLong",
                     0x8,
                     {[](mlx5_cmd_layout &l) { l.outlen = cpu_to_be32(0xffffffff); }, {}}},
        DeliveryCase{"Transport", 0x10, {[](mlx5_cmd_layout &l) { l.type = 3; }, {}}}),
    [](const auto &info) { return info.param.name; });

TEST(Command, MailboxSignaturesAreAnOption) {
    MiniDriver d;
    d.set_queue_address();
    d.must(REQUEST(enable_hca, ENABLE_HCA), IFC_BYTES(enable_hca_out));
    const MiniDriver::Mangle flip{{}, [](unsigned, mlx5_cmd_prot_block &b, bool in) {
                                      if (in)
                                          b.data[500] ^= 1;
                                  }};
    auto query = REQUEST(query_hca_cap, QUERY_HCA_CAP, 0);
    query.resize(600);
    EXPECT_EQ(d.command(query, IFC_BYTES(query_hca_cap_out), flip).delivery, 0U);

    const Message max = d.must(query, IFC_BYTES(query_hca_cap_out));
    auto set = REQUEST(set_hca_cap, SET_HCA_CAP, MLX5_CAP_GENERAL << 1);
    const Bytes cap = IFC_AT(set_hca_cap_in, Bytes(set), capability);
    const ConstBytes from = IFC_AT(query_hca_cap_out, ConstBytes(max), capability);
    std::copy_n(from.begin(), std::min(cap.size(), from.size()), cap.begin());
    IFC_SET(cmd_hca_cap, cap, cmdif_checksum, 3);
    d.must(set, IFC_BYTES(set_hca_cap_out));
    EXPECT_EQ(d.command(query, IFC_BYTES(query_hca_cap_out), flip).delivery, 0x1U);
    d.must(query, IFC_BYTES(query_hca_cap_out));
}

TEST(Command, CapabilitiesCannotBeRaised) {
    MiniDriver d;
    d.set_queue_address();
    d.must(REQUEST(enable_hca, ENABLE_HCA), IFC_BYTES(enable_hca_out));
    auto set = REQUEST(set_hca_cap, SET_HCA_CAP, MLX5_CAP_GENERAL << 1);
    const Bytes cap = IFC_AT(set_hca_cap_in, Bytes(set), capability);
    IFC_SET(cmd_hca_cap, cap, log_max_qp, 31);
    EXPECT_EQ(d.command(set, IFC_BYTES(set_hca_cap_out)).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(cmd_hca_cap, cap, log_max_qp, 3);
    IFC_SET(cmd_hca_cap, cap, cmdif_checksum, 1);
    EXPECT_FALSE(d.command(set, IFC_BYTES(set_hca_cap_out)).ok());
    IFC_SET(cmd_hca_cap, cap, cmdif_checksum, 0);
    IFC_SET(cmd_hca_cap, cap, log_max_current_uc_list, 20);
    EXPECT_FALSE(d.command(set, IFC_BYTES(set_hca_cap_out)).ok());
    auto roce = REQUEST(set_hca_cap, SET_HCA_CAP, MLX5_CAP_ROCE << 1);
    EXPECT_FALSE(d.command(roce, IFC_BYTES(set_hca_cap_out)).ok());
    auto no_type = REQUEST(query_hca_cap, QUERY_HCA_CAP, MLX5_CAP_ESWITCH << 1);
    EXPECT_EQ(d.command(no_type, IFC_BYTES(query_hca_cap_out)).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST(Command, CompletionEventWhenSomebodyListens) {
    MiniDriver d;
    d.open();
    TestEq eq = d.create_eq(0, 1ULL << MLX5_EVENT_TYPE_CMD);
    while (d.poll(eq) != nullptr) { // its own CREATE_EQ was announced too
    }
    d.arm(eq);
    d.host.interrupts.clear();
    d.must(REQUEST(query_issi, QUERY_ISSI), IFC_BYTES(query_issi_out));
    ASSERT_EQ(d.host.interrupts.size(), 1U);
    const mlx5_eqe *eqe = nullptr;
    unsigned seen = 0;
    while ((eqe = d.poll(eq)) != nullptr) {
        EXPECT_EQ(eqe->type, MLX5_EVENT_TYPE_CMD);
        EXPECT_EQ(be32_to_cpu(eqe->data.cmd.vector), 1U << 3);
        ++seen;
    }
    EXPECT_EQ(seen, 1U);
}

TEST(Hca, IssiAndIdentity) {
    MiniDriver d;
    d.init();
    const Message out = d.must(REQUEST(query_issi, QUERY_ISSI), IFC_BYTES(query_issi_out));
    EXPECT_EQ(IFC_GET(query_issi_out, ConstBytes(out), current_issi), 1U);
    EXPECT_EQ(IFC_GET(query_issi_out, ConstBytes(out), supported_issi_dw0), 3U);
    auto issi = REQUEST(set_issi, SET_ISSI);
    IFC_SET(set_issi_in, Bytes(issi), current_issi, 2);
    EXPECT_EQ(d.command(issi, IFC_BYTES(set_issi_out)).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    const Message adapter =
        d.must(REQUEST(query_adapter, QUERY_ADAPTER), IFC_BYTES(query_adapter_out));
    EXPECT_EQ(IFC_GET(query_adapter_out, ConstBytes(adapter), query_adapter_struct.ieee_vendor_id),
              0x2c9U);
    const Message special = d.must(REQUEST(query_special_contexts, QUERY_SPECIAL_CONTEXTS),
                                   IFC_BYTES(query_special_contexts_out));
    EXPECT_EQ(IFC_GET(query_special_contexts_out, ConstBytes(special), terminate_scatter_list_mkey),
              0x100U);
    auto version = REQUEST(set_driver_version, SET_DRIVER_VERSION);
    std::memset(version.data() + 16, 'x', version.size() - 16); // not terminated
    d.must(version, IFC_BYTES(set_driver_version_out));
    d.must(REQUEST(nop, NOP), IFC_BYTES(nop_out));
    auto other = REQUEST(enable_hca, ENABLE_HCA);
    IFC_SET(enable_hca_in, Bytes(other), function_id, 1);
    EXPECT_FALSE(d.command(other, IFC_BYTES(enable_hca_out)).ok());
    EXPECT_FALSE(d.command(REQUEST(init_hca, INIT_HCA), IFC_BYTES(init_hca_out)).ok());
    EXPECT_FALSE(d.command(REQUEST(disable_hca, DISABLE_HCA), IFC_BYTES(disable_hca_out)).ok());
}

TEST(Pages, EveryPageComesBack) {
    MiniDriver d;
    d.open();
    const auto held = d.dev.stats().pages_held;
    EXPECT_GT(held, 64U);
    // While the HCA is up nothing goes that was not offered.
    auto take = REQUEST(manage_pages, MANAGE_PAGES, 2);
    IFC_SET(manage_pages_in, Bytes(take), input_num_entries, 512);
    Message out = d.must(take, IFC_BYTES(manage_pages_out) + 512 * 8);
    EXPECT_EQ(IFC_GET(manage_pages_out, ConstBytes(out), output_num_entries), 0U);
    d.must(REQUEST(teardown_hca, TEARDOWN_HCA), IFC_BYTES(teardown_hca_out));
    std::set<std::uint64_t> pages;
    for (;;) {
        out = d.must(take, IFC_BYTES(manage_pages_out) + 512 * 8);
        const unsigned n = IFC_GET(manage_pages_out, ConstBytes(out), output_num_entries);
        if (n == 0)
            break;
        for (unsigned i = 0; i < n; ++i)
            EXPECT_TRUE(pages
                            .insert(load_be<std::uint64_t>(out.data() +
                                                           IFC_BYTES(manage_pages_out) + i * 8))
                            .second);
    }
    EXPECT_EQ(pages.size(), held);
    EXPECT_EQ(d.dev.stats().pages_held, 0U);
    d.must(REQUEST(disable_hca, DISABLE_HCA), IFC_BYTES(disable_hca_out));
}

TEST(Pages, BadPagesAreRefusedWhole) {
    MiniDriver d;
    d.init();
    const auto held = d.dev.stats().pages_held;
    auto give = request(MLX5_CMD_OP_MANAGE_PAGES, IFC_BYTES(manage_pages_in) + 16, 1);
    IFC_SET(manage_pages_in, Bytes(give), input_num_entries, 2);
    store_be<std::uint64_t>(give.data() + IFC_BYTES(manage_pages_in), 0x7000'0000);
    store_be<std::uint64_t>(give.data() + IFC_BYTES(manage_pages_in) + 8, 0x7000'0000);
    EXPECT_EQ(d.command(give, 16).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(d.dev.stats().pages_held, held);
    IFC_SET(manage_pages_in, Bytes(give), input_num_entries, 3);
    EXPECT_EQ(d.command(give, 16).status, MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_FALSE(d.command(REQUEST(manage_pages, MANAGE_PAGES, 9), 16).ok());
    EXPECT_FALSE(d.command(REQUEST(query_pages, QUERY_PAGES, 9), 16).ok());
    d.must(REQUEST(manage_pages, MANAGE_PAGES, 0), 16);
}

TEST(Pages, ManyObjectsAskForMoreByEvent) {
    MiniDriver d;
    d.open();
    auto mk = REQUEST(create_mkey, CREATE_MKEY);
    const Bytes mkc = IFC_AT(create_mkey_in, Bytes(mk), memory_key_mkey_entry);
    IFC_SET(mkc, mkc, pd, d.pd);
    std::vector<std::uint32_t> keys;
    const auto pages_wanted = [&] {
        std::int32_t n = 0;
        while (const mlx5_eqe *eqe = d.poll(d.async_eq)) {
            if (eqe->type == MLX5_EVENT_TYPE_PAGE_REQUEST) {
                const auto count =
                    static_cast<std::int32_t>(be32_to_cpu(eqe->data.req_pages.num_pages));
                if (count > 0)
                    d.give(static_cast<std::size_t>(count));
                n += count;
            }
            d.arm(d.async_eq);
        }
        return n;
    };
    pages_wanted();
    std::int32_t more = 0;
    for (unsigned i = 0; i < 800; ++i) {
        keys.push_back(IFC_GET(create_mkey_out, ConstBytes(d.must(mk, IFC_BYTES(create_mkey_out))),
                               mkey_index));
        more += pages_wanted();
    }
    EXPECT_GT(more, 0);
    std::int32_t back = 0;
    for (auto key : keys) {
        auto in = REQUEST(destroy_mkey, DESTROY_MKEY);
        IFC_SET(destroy_mkey_in, Bytes(in), mkey_index, key);
        d.must(in, IFC_BYTES(destroy_mkey_out));
        back += pages_wanted();
    }
    EXPECT_LT(back, 0);
    EXPECT_GE(back, -more);
    auto take = REQUEST(manage_pages, MANAGE_PAGES, 2);
    IFC_SET(manage_pages_in, Bytes(take), input_num_entries, 512);
    const Message out = d.must(take, IFC_BYTES(manage_pages_out) + 512 * 8);
    EXPECT_EQ(IFC_GET(manage_pages_out, ConstBytes(out), output_num_entries),
              static_cast<unsigned>(-back));
}

TEST(Teardown, ForceAndFast) {
    for (unsigned profile : {1U, 2U}) {
        MiniDriver d;
        d.open();
        auto in = REQUEST(teardown_hca, TEARDOWN_HCA);
        IFC_SET(teardown_hca_in, Bytes(in), profile, profile);
        d.must(in, IFC_BYTES(teardown_hca_out));
        if (profile == 2) {
            const auto at = offsetof(mlx5_init_seg, cmdq_addr_l_sz);
            d.write32(at, (d.read32(at) & 0xfffff000) | 1U << 8);
            EXPECT_EQ(d.read32(at) >> 8 & 7, 1U);
            EXPECT_EQ(d.dev.stats().pages_held, 0U) << "the driver frees them without asking";
        }
        EXPECT_NE(d.dev.describe().find("eqs 0 "), std::string::npos);
    }
    MiniDriver d;
    d.open();
    auto in = REQUEST(teardown_hca, TEARDOWN_HCA);
    IFC_SET(teardown_hca_in, Bytes(in), profile, 77);
    EXPECT_FALSE(d.command(in, IFC_BYTES(teardown_hca_out)).ok());
}

TEST(Reset, FirmwareResetDisablesTheInterfaceAndForgetsEverything) {
    MiniDriver d;
    d.open();
    const auto at = offsetof(mlx5_init_seg, cmdq_addr_l_sz);
    d.write32(at, (d.read32(at) & 0xfffff000) | 7U << 8);
    EXPECT_EQ(d.read32(at) >> 8 & 7, 7U);
    EXPECT_NE(d.dev.describe().find(" eqs 0 cqs 0 mkeys 0 "), std::string::npos) << "at once";
    d.host.now_ns += 100'000'000;
    EXPECT_EQ(d.read32(at) >> 8 & 7, 1U);
    EXPECT_EQ(d.dev.stats().pages_held, 0U);
    d.init(); // and up again
}

TEST(Reset, FunctionLevelResetLeavesADisabledInterface) {
    const auto at = offsetof(mlx5_init_seg, cmdq_addr_l_sz);
    MiniDriver d;
    d.dev.reset();
    EXPECT_EQ(d.read32(at) >> 8 & 7, 0U) << "nobody has used it yet";
    d.open();
    d.dev.reset();
    EXPECT_EQ(d.read32(at) >> 8 & 7, 1U);
    EXPECT_EQ(d.dev.stats().pages_held, 0U);
    EXPECT_NE(d.dev.describe().find("eqs 0 "), std::string::npos);
    // Commands are not looked at until there is a queue again.
    EXPECT_EQ(d.command(REQUEST(nop, NOP), IFC_BYTES(nop_out)).delivery, ~0U);
    d.open();
    EXPECT_EQ(d.read32(at) >> 8 & 7, 0U);
}

TEST(Vsc, GatewaySemaphoreAndCrSpace) {
    MiniDriver d;
    // Take the gateway as the driver does.
    EXPECT_EQ(d.dev.vsc_read(0xc), 0U);
    const auto counter = d.dev.vsc_read(0x8);
    d.dev.vsc_write(0xc, counter);
    EXPECT_EQ(d.dev.vsc_read(0xc), counter);
    d.dev.vsc_write(0xc, counter + 1);
    EXPECT_EQ(d.dev.vsc_read(0xc), counter);
    // Reset semaphore.
    d.dev.vsc_write(0x4, 0xa);
    EXPECT_NE(d.dev.vsc_read(0x4) >> 29, 0U);
    d.dev.vsc_write(0x14, 77);
    d.dev.vsc_write(0x10, 0x20 | 1U << 31);
    EXPECT_EQ(d.dev.vsc_read(0x10) >> 31, 0U);
    d.dev.vsc_write(0x14, 78);
    d.dev.vsc_write(0x10, 0x20 | 1U << 31); // taken already
    d.dev.vsc_write(0x10, 0x20);
    EXPECT_EQ(d.dev.vsc_read(0x10) >> 31, 1U);
    EXPECT_EQ(d.dev.vsc_read(0x14), 77U);
    // CR space: has a size, and reading moves on.
    d.dev.vsc_write(0x4, 0x7);
    EXPECT_EQ(d.dev.vsc_read(0x4) >> 28 & 1, 1U);
    const auto size = d.dev.vsc_read(0x10);
    EXPECT_GT(size, 0U);
    std::uint32_t address = 0;
    while (address < size) {
        d.dev.vsc_write(0x10, address);
        ASSERT_EQ(d.dev.vsc_read(0x10) >> 31, 1U);
        std::ignore = d.dev.vsc_read(0x14);
        const auto next = d.dev.vsc_read(0x10) & 0x3fffffff;
        ASSERT_GT(next, address);
        address = next;
    }
    d.dev.vsc_write(0x4, 0x99);
    EXPECT_EQ(d.dev.vsc_read(0x4) >> 29, 0U);
    EXPECT_EQ(d.dev.vsc_read(0x0), 0U);
    d.dev.vsc_write(0xc, 0);
    EXPECT_EQ(d.dev.vsc_read(0xc), 0U);
}

// With the capabilities of IPsec, TLS and MACsec a driver prepares for them; keys find no room.
TEST(CryptoOffloads, AreThereButHaveNoRoomForKeys) {
    for (const bool on : {false, true}) {
        MiniDriver d(Config{.ipsec = on, .tls = on, .macsec = on});
        d.open();
        const auto object = [&](unsigned opcode, unsigned type) {
            auto in = request(opcode, IFC_BYTES(general_obj_in_cmd_hdr));
            IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, type);
            return d.command(in, IFC_BYTES(general_obj_out_cmd_hdr)).status;
        };
        for (const unsigned type : {unsigned{MLX5_GENERAL_OBJECT_TYPES_ENCRYPTION_KEY},
                                    unsigned{MLX5_GENERAL_OBJECT_TYPES_IPSEC},
                                    unsigned{MLX5_GENERAL_OBJECT_TYPES_MACSEC}}) {
            EXPECT_EQ(object(MLX5_CMD_OP_CREATE_GENERAL_OBJECT, type),
                      on ? MLX5_CMD_STAT_NO_RES_ERR : MLX5_CMD_STAT_BAD_PARAM_ERR);
            for (const unsigned opcode :
                 {MLX5_CMD_OP_QUERY_GENERAL_OBJECT, MLX5_CMD_OP_DESTROY_GENERAL_OBJECT})
                EXPECT_EQ(object(opcode, type),
                          on ? MLX5_CMD_STAT_BAD_RES_ERR : MLX5_CMD_STAT_BAD_PARAM_ERR);
        }
        auto tis = REQUEST(create_tis, CREATE_TIS);
        IFC_SET(create_tis_in, Bytes(tis), ctx.tls_en, 1);
        IFC_SET(create_tis_in, Bytes(tis), ctx.transport_domain, d.td);
        EXPECT_EQ(d.command(tis, IFC_BYTES(create_tis_out)).status,
                  on ? MLX5_CMD_STAT_NO_RES_ERR : MLX5_CMD_STAT_BAD_PARAM_ERR);
    }
}

} // namespace
} // namespace connectx::test
