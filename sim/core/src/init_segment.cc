// SPDX-License-Identifier: GPL-2.0
//
// Initialization segment (struct mlx5_init_seg), health buffer, and the vendor-specific capability.
#include "core.h"

namespace connectx {

namespace {

constexpr std::uint64_t kHealth = offsetof(mlx5_init_seg, health);
// How long a firmware reset takes, and the period of the health counter.
constexpr std::uint64_t kSwResetNs = 50'000'000;
constexpr std::uint64_t kHealthTickNs = 10'000'000;

} // namespace

void InitSegment::reset() {
    nic_interface_ = NicInterface::kFullDriver;
    cmdq_addr_h_ = 0;
    cmdq_addr_l_ = 0;
    health_synd_ = 0;
    health_ext_synd_ = 0;
    health_rfr_ = false;
    health_severity_ = 0;
    frozen_counter_.reset();
    sw_reset_done_ns_ = 0;
}

void InitSegment::set_health(std::uint8_t synd, std::uint16_t ext_synd, bool rfr,
                             unsigned severity) {
    health_synd_ = synd;
    health_ext_synd_ = ext_synd;
    health_rfr_ = rfr;
    health_severity_ = severity & 7;
}

void InitSegment::freeze_health_counter(bool frozen) {
    if (frozen)
        frozen_counter_ = dword(offsetof(mlx5_init_seg, health_counter));
    else
        frozen_counter_.reset();
}

std::uint32_t InitSegment::dword(std::uint64_t offset) {
    const std::uint64_t now = core_.host.clock_ns();
    switch (offset) {
    case offsetof(mlx5_init_seg, fw_rev):
        return kFwMinor << 16 | kFwMajor;
    case offsetof(mlx5_init_seg, cmdif_rev_fw_sub):
        return 5U << 16 | kFwSub;
    case offsetof(mlx5_init_seg, cmdq_addr_h):
        return cmdq_addr_h_;
    case offsetof(mlx5_init_seg, cmdq_addr_l_sz):
        if (nic_interface_ == NicInterface::kSwReset && now >= sw_reset_done_ns_) {
            // The reset took everything with it; the interface stays disabled until the driver
            // gives a command queue address again.
            core_.reset();
            nic_interface_ = NicInterface::kDisabled;
        }
        return cmdq_addr_l_ | static_cast<std::uint32_t>(nic_interface_) << MLX5_NIC_IFC_OFFSET |
               CommandInterface::kLogQueueSize << 4 | CommandInterface::kLogStride;
    case offsetof(mlx5_init_seg, initializing):
        return 1U << MLX5_FW_RESET_SUPPORTED_OFFSET;
    case kHealth + offsetof(health_buffer, time):
        return static_cast<std::uint32_t>(core_.host.realtime_ns() / 1'000'000'000);
    case kHealth + offsetof(health_buffer, fw_ver):
        return kFwMajor << 24 | kFwMinor << 16 | kFwSub;
    case kHealth + offsetof(health_buffer, hw_id):
        return 0x218; // ConnectX-7
    case kHealth + offsetof(health_buffer, rfr_severity):
        return (health_rfr_ ? 0x80U : 0U) << 24 | (health_synd_ != 0 ? 0x8U | health_severity_ : 0U)
                                                      << 24;
    case kHealth + offsetof(health_buffer, irisc_index):
        return static_cast<std::uint32_t>(health_synd_) << 16 | health_ext_synd_;
    case offsetof(mlx5_init_seg, internal_timer_h): {
        // Reading the upper half latches the lower one.
        latched_timer_l_ = static_cast<std::uint32_t>(now);
        return static_cast<std::uint32_t>(now >> 32);
    }
    case offsetof(mlx5_init_seg, internal_timer_l):
        return static_cast<std::uint32_t>(now);
    case offsetof(mlx5_init_seg, real_time_h):
        return static_cast<std::uint32_t>(core_.host.realtime_ns() / 1'000'000'000);
    case offsetof(mlx5_init_seg, real_time_l):
        return static_cast<std::uint32_t>(core_.host.realtime_ns() % 1'000'000'000);
    case offsetof(mlx5_init_seg, health_counter):
        if (frozen_counter_)
            return *frozen_counter_;
        return static_cast<std::uint32_t>(now / kHealthTickNs) & 0xffffff;
    default:
        return 0;
    }
}

void InitSegment::read(std::uint64_t offset, Bytes data) {
    std::size_t done = 0;
    while (done < data.size()) {
        const std::uint64_t at = offset + done;
        std::array<std::uint8_t, 4> word{};
        store_be<std::uint32_t>(word.data(), dword(at & ~3ULL));
        const std::size_t skip = at & 3;
        const std::size_t n = std::min<std::size_t>(4 - skip, data.size() - done);
        std::memcpy(data.data() + done, word.data() + skip, n);
        done += n;
    }
}

void InitSegment::write(std::uint64_t offset, ConstBytes data) {
    if (data.size() == 8) {
        write(offset, data.first(4));
        write(offset + 4, data.subspan(4));
        return;
    }
    if (data.size() != 4 || offset % 4 != 0)
        return;
    const auto value = load_be<std::uint32_t>(data.data());
    switch (offset) {
    case offsetof(mlx5_init_seg, cmdq_addr_h):
        cmdq_addr_h_ = value;
        break;
    case offsetof(mlx5_init_seg, cmdq_addr_l_sz): {
        cmdq_addr_l_ = value & 0xfffff000;
        const auto wanted = static_cast<NicInterface>(value >> MLX5_NIC_IFC_OFFSET & 7);
        if (wanted == NicInterface::kSwReset) {
            core_.log(LogLevel::kInfo, "firmware reset by the driver");
            // From now on the device touches no memory; what else it holds goes when it is done.
            core_.reset_objects();
            core_.hca_enabled = false;
            nic_interface_ = NicInterface::kSwReset;
            sw_reset_done_ns_ = core_.host.clock_ns() + kSwResetNs;
            core_.commands.reset();
            break;
        }
        if (wanted == NicInterface::kDisabled) {
            core_.log(LogLevel::kInfo, "NIC interface disabled by the driver");
            core_.reset_objects();
            core_.pages.reset(); // the driver takes them back without asking
            core_.hca_enabled = false;
        }
        nic_interface_ = wanted;
        core_.commands.set_queue_address(static_cast<std::uint64_t>(cmdq_addr_h_) << 32 |
                                         cmdq_addr_l_);
        break;
    }
    case offsetof(mlx5_init_seg, cmd_dbell):
        core_.commands.doorbell(value);
        break;
    default:
        break;
    }
}

// --- vendor-specific capability ----------------------------------------------------------------

namespace {

enum VscRegister : unsigned {
    kVscControl = 0x4,
    kVscCounter = 0x8,
    kVscSemaphore = 0xc,
    kVscAddress = 0x10,
    kVscData = 0x14,
};

constexpr unsigned kSpaceScanCr = 0x7;
constexpr unsigned kSpaceSemaphore = 0xa;
constexpr std::uint32_t kFlag = 1U << 31;
constexpr std::uint32_t kCrSpaceSize = 0x1000;

} // namespace

void VendorSpecificCapability::reset() {
    semaphore_ = 0;
    address_ = 0;
    data_ = 0;
    space_ = 0;
    space_valid_ = false;
    semaphores_.clear();
}

std::uint32_t VendorSpecificCapability::space_size() const {
    return space_ == kSpaceScanCr ? kCrSpaceSize : 0;
}

std::uint32_t VendorSpecificCapability::space_read(std::uint32_t addr) {
    if (space_ == kSpaceSemaphore) {
        const auto it = semaphores_.find(addr);
        return it == semaphores_.end() ? 0 : it->second;
    }
    return addr < kCrSpaceSize ? core_.iseg.dword(addr & ~3U) : 0;
}

void VendorSpecificCapability::space_write(std::uint32_t addr, std::uint32_t value) {
    constexpr std::size_t kMaxTaken = 64;
    if (space_ != kSpaceSemaphore)
        return;
    // A semaphore that is taken only accepts its release.
    if (value == 0)
        semaphores_.erase(addr);
    else if (semaphores_.size() < kMaxTaken)
        semaphores_.try_emplace(addr, value);
}

std::uint32_t VendorSpecificCapability::read(unsigned offset) {
    switch (offset) {
    case kVscControl:
        return space_ | (space_valid_ ? 1U << 29 : 0) | (space_size() != 0 ? 1U << 28 : 0);
    case kVscCounter:
        return ++counter_;
    case kVscSemaphore:
        return semaphore_;
    case kVscAddress:
        return address_;
    case kVscData: {
        const std::uint32_t value = data_;
        if (space_ == kSpaceScanCr && (address_ & kFlag) != 0)
            address_ = (address_ & 0x3fffffff) + 4;
        return value;
    }
    default:
        return 0;
    }
}

void VendorSpecificCapability::write(unsigned offset, std::uint32_t value) {
    switch (offset) {
    case kVscControl:
        space_ = value & 0xffff;
        space_valid_ = space_ == kSpaceScanCr || space_ == kSpaceSemaphore;
        // The size of a space is shown in the address register when the space is selected.
        address_ = space_size();
        break;
    case kVscSemaphore:
        if (semaphore_ == 0 || value == 0)
            semaphore_ = value;
        break;
    case kVscAddress:
        if ((value & kFlag) != 0) { // write
            space_write(value & 0x3fffffff, data_);
            address_ = value & ~kFlag;
        } else {
            data_ = space_read(value & 0x3fffffff);
            address_ = value | kFlag;
        }
        break;
    case kVscData:
        data_ = value;
        break;
    default:
        break;
    }
}

} // namespace connectx
