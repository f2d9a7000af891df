// SPDX-License-Identifier: GPL-2.0
//
// Bringing the function up and down: ENABLE_HCA, ISSI, pages, capabilities, INIT_HCA, TEARDOWN_HCA.
#include "core.h"

#include <utility>

namespace connectx {

namespace {

CommandStatus enable_hca(Core &core, const Command &cmd) {
    if (IFC_GET(enable_hca_in, cmd.in, function_id) != 0)
        return bad_param(0x120);
    core.hca_enabled = true;
    return kOk;
}

CommandStatus disable_hca(Core &core, const Command &cmd) {
    if (IFC_GET(disable_hca_in, cmd.in, function_id) != 0)
        return bad_param(0x121);
    if (core.hca_initialized)
        return bad_sys_state(0x122);
    core.hca_enabled = false;
    return kOk;
}

CommandStatus query_issi(Core &core, const Command &cmd) {
    IFC_SET(query_issi_out, cmd.out, current_issi, core.issi);
    IFC_SET(query_issi_out, cmd.out, supported_issi_dw0, 1U << 1 | 1U << 0);
    return kOk;
}

CommandStatus set_issi(Core &core, const Command &cmd) {
    const unsigned wanted = IFC_GET(set_issi_in, cmd.in, current_issi);
    if (wanted > 1)
        return bad_param(0x123);
    core.issi = wanted;
    return kOk;
}

CommandStatus query_pages(Core & /*core*/, const Command &cmd) { return PageSupply::query(cmd); }
CommandStatus manage_pages(Core &core, const Command &cmd) { return core.pages.manage(cmd); }

CommandStatus query_hca_cap(Core &core, const Command &cmd) {
    const auto mode = (cmd.op_mod & 1) == HCA_CAP_OPMOD_GET_MAX ? CapMode::kMax : CapMode::kCurrent;
    const Capabilities::Block *block = core.caps.find(cmd.op_mod >> 1, mode);
    if (block == nullptr)
        return bad_param(0x124);
    const Bytes dst = IFC_AT(query_hca_cap_out, cmd.out, capability);
    std::memcpy(dst.data(), block->data(), std::min(dst.size(), block->size()));
    return kOk;
}

CommandStatus set_hca_cap(Core &core, const Command &cmd) {
    if (core.hca_initialized)
        return bad_sys_state(0x125);
    return core.caps.set(cmd.op_mod >> 1, IFC_AT(set_hca_cap_in, cmd.in, capability));
}

CommandStatus init_hca(Core &core, const Command & /*cmd*/) {
    if (core.hca_initialized)
        return bad_sys_state(0x126);
    core.hca_initialized = true;
    return kOk;
}

CommandStatus teardown_hca(Core &core, const Command &cmd) {
    constexpr unsigned kGraceful = 0;
    const unsigned profile = IFC_GET(teardown_hca_in, cmd.in, profile);
    if (profile != kGraceful && profile != MLX5_TEARDOWN_HCA_IN_PROFILE_FORCE_CLOSE &&
        profile != MLX5_TEARDOWN_HCA_IN_PROFILE_PREPARE_FAST_TEARDOWN)
        return bad_param(0x127);
    if (!core.hca_initialized)
        return bad_sys_state(0x128);
    if (profile == MLX5_TEARDOWN_HCA_IN_PROFILE_PREPARE_FAST_TEARDOWN) {
        // The teardown itself comes when the driver disables the NIC interface.
        return kOk;
    }
    core.reset_objects();
    return kOk;
}

CommandStatus query_adapter(Core & /*core*/, const Command &cmd) {
    constexpr std::string_view kPsid = "UQO0000000007";
    IFC_SET(query_adapter_out, cmd.out, query_adapter_struct.ieee_vendor_id, 0x2c9);
    const Bytes psid = IFC_AT(query_adapter_out, cmd.out, query_adapter_struct.vsd_contd_psid);
    std::memcpy(psid.data(), kPsid.data(), std::min(psid.size(), kPsid.size()));
    return kOk;
}

CommandStatus set_driver_version(Core &core, const Command &cmd) {
    const ConstBytes raw = IFC_AT(set_driver_version_in, cmd.in, driver_version);
    const std::size_t max =
        std::min(raw.size(), IFC_FIELD_BYTES(set_driver_version_in, driver_version));
    const auto *text = reinterpret_cast<const char *>(raw.data());
    core.log(LogLevel::kInfo, "driver is %.*s", static_cast<int>(strnlen(text, max)), text);
    return kOk;
}

CommandStatus query_special_contexts(Core & /*core*/, const Command &cmd) {
    IFC_SET(query_special_contexts_out, cmd.out, terminate_scatter_list_mkey,
            kTerminateScatterListLkey);
    return kOk;
}

CommandStatus nop(Core & /*core*/, const Command & /*cmd*/) { return kOk; }

} // namespace

void register_hca_commands(CommandTable &t) {
    using enum CommandStage;
#define ADD(op, in, out, stage, handler)                                                           \
    t[MLX5_CMD_OP_##op] = {#op, IFC_BYTES(in), IFC_BYTES(out), stage, handler}
    ADD(ENABLE_HCA, enable_hca_in, enable_hca_out, kAlways, enable_hca);
    ADD(DISABLE_HCA, disable_hca_in, disable_hca_out, kHcaEnabled, disable_hca);
    ADD(QUERY_ISSI, query_issi_in, query_issi_out, kHcaEnabled, query_issi);
    ADD(SET_ISSI, set_issi_in, set_issi_out, kHcaEnabled, set_issi);
    ADD(QUERY_PAGES, query_pages_in, query_pages_out, kHcaEnabled, query_pages);
    ADD(MANAGE_PAGES, manage_pages_in, manage_pages_out, kHcaEnabled, manage_pages);
    ADD(QUERY_HCA_CAP, query_hca_cap_in, query_hca_cap_out, kHcaEnabled, query_hca_cap);
    ADD(SET_HCA_CAP, set_hca_cap_in, set_hca_cap_out, kHcaEnabled, set_hca_cap);
    ADD(INIT_HCA, init_hca_in, init_hca_out, kHcaEnabled, init_hca);
    ADD(TEARDOWN_HCA, teardown_hca_in, teardown_hca_out, kHcaEnabled, teardown_hca);
    ADD(QUERY_ADAPTER, query_adapter_in, query_adapter_out, kHcaEnabled, query_adapter);
    ADD(SET_DRIVER_VERSION, set_driver_version_in, set_driver_version_out, kHcaEnabled,
        set_driver_version);
    ADD(QUERY_SPECIAL_CONTEXTS, query_special_contexts_in, query_special_contexts_out,
        kHcaInitialized, query_special_contexts);
    t[MLX5_CMD_OP_NOP] = {"NOP", IFC_BYTES(nop_in), IFC_BYTES(nop_out), kAlways, nop};
#undef ADD
}

// --- pages ---------------------------------------------------------------------------------------

namespace {
// Contexts of that many objects fit into what INIT pages give; each page more holds this many.
constexpr std::uint64_t kObjectsOfInitPages = 256;
constexpr std::uint64_t kObjectsPerPage = 8;
constexpr std::int32_t kRequestBatch = 16;
constexpr std::size_t kUnitsPerPage = 4; // of WorkMeter
} // namespace

void PageSupply::forget_objects() {
    objects_ = 0;
    requested_ = 0;
    granted_for_objects_ = 0;
}

void PageSupply::reset() {
    core_.graveyard.bury(std::exchange(pages_, {}));
    forget_objects();
}

CommandStatus PageSupply::query(const Command &cmd) {
    constexpr unsigned kBoot = 1;
    constexpr unsigned kInit = 2;
    constexpr unsigned kRegular = 3;
    std::int32_t wanted = 0;
    switch (cmd.op_mod) {
    case kBoot:
        wanted = static_cast<std::int32_t>(kBootPages);
        break;
    case kInit:
        wanted = static_cast<std::int32_t>(kInitPages);
        break;
    case kRegular:
        wanted = 0;
        break;
    default:
        return bad_param(0x130);
    }
    IFC_SET(query_pages_out, cmd.out, function_id, 0);
    IFC_SET(query_pages_out, cmd.out, num_pages, wanted);
    return kOk;
}

CommandStatus PageSupply::manage(const Command &cmd) {
    constexpr unsigned kCantGive = 0;
    constexpr unsigned kGive = 1;
    constexpr unsigned kTake = 2;
    if (IFC_GET(manage_pages_in, cmd.in, function_id) != 0)
        return bad_param(0x131);
    const std::uint64_t count = IFC_GET(manage_pages_in, cmd.in, input_num_entries);

    switch (cmd.op_mod) {
    case kCantGive:
        requested_ = 0;
        core_.log(LogLevel::kWarning, "driver cannot give pages");
        return kOk;
    case kGive: {
        const ConstBytes pas = IFC_AT(manage_pages_in, cmd.in, pas);
        if (pas.size() / 8 < count)
            return bad_input_length(0x132);
        if (count > kMaxAtOnce || count > kMaxPages - pages_.size())
            return limit_exceeded(0x136);
        for (std::uint64_t i = 0; i < count; ++i) {
            core_.work.charge(kUnitsPerPage);
            const auto addr = load_be<std::uint64_t>(pas.data() + i * 8);
            if (addr != 0 && addr % MLX5_ADAPTER_PAGE_SIZE == 0 && pages_.insert(addr).second)
                continue;
            // All or nothing: what this command has added so far goes again.
            for (; i > 0; --i)
                pages_.erase(load_be<std::uint64_t>(pas.data() + (i - 1) * 8));
            return bad_param(0x133);
        }
        requested_ = std::max<std::int64_t>(0, requested_ - static_cast<std::int64_t>(count));
        return kOk;
    }
    case kTake: {
        const Bytes pas = IFC_AT(manage_pages_out, cmd.out, pas);
        std::uint64_t n = std::min<std::uint64_t>({count, pages_.size(), kMaxAtOnce});
        // While the HCA is up, only what was asked back may go.
        if (core_.hca_initialized)
            n = std::min<std::uint64_t>(n, requested_ < 0 ? -requested_ : 0);
        if (pas.size() / 8 < n)
            return bad_output_length(0x134);
        core_.work.charge(n * kUnitsPerPage);
        for (std::uint64_t i = 0; i < n; ++i) {
            store_be<std::uint64_t>(pas.data() + i * 8, *pages_.begin());
            pages_.erase(pages_.begin());
        }
        if (core_.hca_initialized)
            requested_ += static_cast<std::int64_t>(n);
        IFC_SET(manage_pages_out, cmd.out, output_num_entries, n);
        return kOk;
    }
    default:
        return bad_param(0x135);
    }
}

void PageSupply::request(std::int32_t count) {
    requested_ += count;
    std::array<std::uint8_t, sizeof(ev_data)> data{};
    store_be<std::uint32_t>(data.data() + offsetof(mlx5_eqe_page_req, num_pages),
                            static_cast<std::uint32_t>(count));
    core_.events.post_async(MLX5_EVENT_TYPE_PAGE_REQUEST, 0, data);
}

void PageSupply::object_created() {
    ++objects_;
    if (objects_ <= kObjectsOfInitPages + granted_for_objects_ * kObjectsPerPage)
        return;
    granted_for_objects_ += kRequestBatch;
    request(kRequestBatch);
}

void PageSupply::object_destroyed() {
    if (objects_ > 0)
        --objects_;
    // Some slack, so that a driver that reopens its queues does not move pages to and fro.
    if (granted_for_objects_ >= 2 * std::size_t{kRequestBatch} &&
        objects_ + 2 * std::size_t{kRequestBatch} * kObjectsPerPage <
            kObjectsOfInitPages + granted_for_objects_ * kObjectsPerPage) {
        granted_for_objects_ -= kRequestBatch;
        request(-kRequestBatch);
    }
}

} // namespace connectx
