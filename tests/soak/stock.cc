// SPDX-License-Identifier: GPL-2.0
#include "stock.h"

#include <array>
#include <filesystem>
#include <set>
#include <sstream>
#include <utility>

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "system.h"
#include "world.h"

namespace quic_soak {

using quic_test::command;
using quic_test::eventually;
using quic_test::read_file;
using quic_test::Statistics;
using quic_test::try_command;
using quic_test::write_file;

namespace {

namespace fs = std::filesystem;

const std::string kSlab = "/sys/kernel/slab/";
constexpr std::int64_t kKilobyte = 1024;
constexpr std::int64_t kMegabyte = 1024 * kKilobyte;

// Objects of caches whose count follows from what exists. What is ours is 0 when nobody has an SA.
const std::set<std::string> kZeroCaches{"udp_sa"};
const std::set<std::string> kSameCaches{"net_namespace", "skbuff_ext_cache", "UDP", "UDPv6",
                                        "PACKET"};
// Of interest beside these; the rest is judged too.
const std::set<std::string> kNotableCaches{"skbuff_head_cache",
                                           "skbuff_small_head",
                                           "skbuff_fclone_cache",
                                           "sock_inode_cache",
                                           "filp",
                                           "task_struct",
                                           "dentry",
                                           "kmalloc-32",
                                           "kmalloc-64",
                                           "kmalloc-128",
                                           "kmalloc-256",
                                           "kmalloc-512",
                                           "kmalloc-1k",
                                           "kmalloc-2k",
                                           "kmalloc-4k",
                                           "kmalloc-8k"};

// What a cache may grow by between the thirds of a run, in objects. Enough for what other parts of
// the kernel keep for a while, and for one processor's caches.
std::int64_t cache_slack(std::int64_t object_size) {
    return std::max<std::int64_t>(32, 64 * kKilobyte / object_size);
}

std::int64_t number_in(const std::string &path) {
    std::int64_t value = 0;
    std::istringstream(read_file(path)) >> value;
    return value;
}

// The real caches; the rest are aliases of them.
std::vector<std::string> caches() {
    std::vector<std::string> out;
    for (const auto &entry : fs::directory_iterator(kSlab))
        if (!entry.is_symlink() && entry.path().filename().string()[0] != ':')
            out.push_back(entry.path().filename().string());
    return out;
}

void shrink(const std::string &cache) {
    // Some go away while we look.
    try {
        write_file(kSlab + cache + "/shrink", "1");
    } catch (const std::exception &) {
    }
}

// 0 of a cache that is gone.
std::int64_t number_of(const std::string &cache, const char *what) {
    // "N" or "N N0=N ..."
    try {
        return number_in(kSlab + cache + "/" + what);
    } catch (const std::exception &) {
        return 0;
    }
}

std::int64_t objects(const std::string &cache) { return number_of(cache, "objects"); }

void wait_for_rcu() { ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0); }

void add(Stock &stock, const std::string &name, Rule rule, std::int64_t slack,
         const std::string &unit, std::int64_t value) {
    stock[name] = {rule, slack, unit, value};
}

void add_memory(Stock &stock) {
    std::map<std::string, std::int64_t> memory;
    std::istringstream lines(read_file("/proc/meminfo"));
    std::string line;
    while (std::getline(lines, line)) {
        const auto colon = line.find(':');
        if (colon != std::string::npos)
            memory[line.substr(0, colon)] = std::stoll(line.substr(colon + 1)) * kKilobyte;
    }
    // The debug kernel keeps each call chain that ever allocated anything, once.
    std::int64_t chains = 0;
    const std::string stack_depot = "/sys/kernel/debug/stackdepot/stats";
    if (fs::exists(stack_depot)) {
        std::istringstream text(read_file(stack_depot));
        while (std::getline(text, line))
            if (line.starts_with("pools:"))
                chains = std::stoll(line.substr(6)) * 16 * kKilobyte;
    }
    add(stock, "memory not available, call chains left out", Rule::kGrows, 8 * kMegabyte, "bytes",
        memory["MemTotal"] - memory["MemAvailable"] - chains);
    for (const auto &[name, slack] :
         {std::pair{"Slab", 2 * kMegabyte}, std::pair{"SUnreclaim", 2 * kMegabyte},
          std::pair{"KernelStack", 256 * kKilobyte}, std::pair{"PageTables", 512 * kKilobyte},
          std::pair{"VmallocUsed", 1 * kMegabyte}, std::pair{"Percpu", 512 * kKilobyte},
          std::pair{"AnonPages", 4 * kMegabyte}})
        add(stock, name, Rule::kGrows, slack, "bytes", memory[name]);
}

void add_caches(Stock &stock) {
    for (const std::string &cache : caches()) {
        const std::int64_t count = objects(cache);
        const std::int64_t size = number_of(cache, "slab_size");
        if (kZeroCaches.contains(cache))
            add(stock, "slab " + cache, Rule::kZero, 0, "objects", count);
        else if (kSameCaches.contains(cache))
            add(stock, "slab " + cache, Rule::kSame, 0, "objects", count);
        else if (cache == "filp")
            add(stock, "slab " + cache, Rule::kGrows, 8, "objects", count);
        else
            add(stock, "slab " + cache, Rule::kGrows, cache_slack(std::max<std::int64_t>(1, size)),
                "objects", count);
    }
}

void add_processes_and_files(Stock &stock) {
    constexpr unsigned kKernelThread = 0x00200000; // PF_KTHREAD
    std::int64_t user = 0;
    std::int64_t kernel = 0;
    for (const auto &entry : fs::directory_iterator("/proc")) {
        const std::string pid = entry.path().filename().string();
        if (pid.find_first_not_of("0123456789") != std::string::npos)
            continue;
        std::string text;
        try {
            text = read_file("/proc/" + pid + "/stat");
        } catch (const std::exception &) {
            continue;
        }
        // Behind the name: state, ppid, pgrp, session, tty, tpgid, flags
        std::istringstream fields(text.substr(text.rfind(')') + 1));
        std::string skipped;
        unsigned flags = 0;
        for (int i = 0; i < 6; ++i)
            fields >> skipped;
        fields >> flags;
        ++((flags & kKernelThread) != 0 ? kernel : user);
    }
    add(stock, "processes", Rule::kSame, 0, "processes", user);
    add(stock, "kernel threads", Rule::kGrows, 12, "threads", kernel);
    std::int64_t descriptors = 0;
    for ([[maybe_unused]] const auto &entry : fs::directory_iterator("/proc/self/fd"))
        ++descriptors;
    add(stock, "descriptors of this program", Rule::kSame, 0, "descriptors", descriptors);
    // Each processor counts up to some dozens for itself; "slab filp" is exact.
    add(stock, "open files", Rule::kGrows, 128, "files", number_in("/proc/sys/fs/file-nr"));
}

void add_network(Stock &stock) {
    add(stock, "SAs in the first namespace", Rule::kZero, 0, "SAs",
        static_cast<std::int64_t>(Statistics::read()["SaCurr"]));
    std::istringstream lines(read_file("/proc/thread-self/net/sockstat"));
    std::string line;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string what;
        std::string of;
        std::int64_t n = 0;
        words >> what >> of >> n;
        if (what == "sockets:")
            add(stock, "sockets in the first namespace", Rule::kSame, 0, "sockets", n);
        if (what == "UDP:")
            add(stock, "UDP sockets in the first namespace", Rule::kSame, 0, "sockets", n);
    }
    std::istringstream devices(read_file("/proc/thread-self/net/dev"));
    std::int64_t count = -2; // two lines of headings
    while (std::getline(devices, line))
        ++count;
    add(stock, "network devices", Rule::kGrows, 0, "devices", count);
}

void add_device(Stock &stock, const std::string &device) {
    const auto statistics = quic_test::ethtool_statistics(device);
    const auto counter = [&](const std::string &name) {
        const auto found = statistics.find(name);
        return found == statistics.end() ? 0 : static_cast<std::int64_t>(found->second);
    };
    const std::string prefix = device + " ";
    for (const char *name : {"quic_sa_installed", "quic_sa_failed", "quic_dev_wqe_errors",
                             "quic_dev_drop_pd", "quic_dev_drop_headers", "quic_dev_drop_short"})
        add(stock, prefix + name, Rule::kZero, 0, "", counter(name));
    add(stock, prefix + "SAs created and not destroyed", Rule::kZero, 0, "SAs",
        counter("quic_sa_created") - counter("quic_sa_destroyed"));
    add(stock, prefix + "SAs in the device", Rule::kZero, 0, "SAs",
        counter("quic_dev_sa_created") - counter("quic_dev_sa_destroyed"));

    std::string pci = command("ethtool -i " + device + " | sed -n 's/^bus-info: //p'");
    while (!pci.empty() && pci.back() == '\n')
        pci.pop_back();
    const std::string pages = "/sys/kernel/debug/mlx5/" + pci + "/pages/fw_pages_total";
    if (fs::exists(pages))
        add(stock, prefix + "pages", Rule::kGrows, 0, "pages", number_in(pages));
    std::istringstream words(
        try_command("devlink health show pci/" + pci + " | grep -o 'error [0-9]*'").output);
    std::int64_t errors = 0;
    std::string word;
    std::int64_t n = 0;
    while (words >> word >> n)
        errors += n;
    add(stock, prefix + "health errors", Rule::kZero, 0, "errors", errors);
}

} // namespace

bool is_notable(const std::string &name) {
    if (!name.starts_with("slab "))
        return true;
    const std::string cache = name.substr(5);
    return kZeroCaches.contains(cache) || kSameCaches.contains(cache) ||
           kNotableCaches.contains(cache);
}

Stock take_stock(const std::vector<std::string> &devices) {
    // Namespaces end in a worker, and the last ones that ended are freed only when another ends:
    // that one is ours.
    std::pair<std::int64_t, std::int64_t> left;
    for (unsigned rounds_without_change = 0; rounds_without_change < 3; ++rounds_without_change) {
        { const quic_test::NetNamespace last; }
        const auto before = left;
        const bool done = eventually(
            [&] {
                wait_for_rcu();
                shrink("udp_sa");
                shrink("net_namespace");
                left = {objects("udp_sa"), objects("net_namespace")};
                return left.first == 0 && left.second <= 1;
            },
            std::chrono::seconds(3));
        if (done)
            break;
        if (left != before)
            rounds_without_change = 0;
    }
    write_file("/proc/sys/vm/drop_caches", "2");
    wait_for_rcu();
    // With KASAN each takes a while, so those without memory are left alone; and what was freed
    // while others shrank matters for the exact ones.
    for (const std::string &cache : caches())
        if (number_of(cache, "slabs") != 0)
            shrink(cache);
    wait_for_rcu();
    for (const auto &exact : {kZeroCaches, kSameCaches})
        for (const std::string &cache : exact)
            shrink(cache);

    Stock stock;
    add_memory(stock);
    add_caches(stock);
    add_processes_and_files(stock);
    add_network(stock);
    for (const std::string &device : devices)
        add_device(stock, device);
    return stock;
}

} // namespace quic_soak
