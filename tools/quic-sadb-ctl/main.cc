// SPDX-License-Identifier: MIT
//
// quic-sadb-ctl(8): the command line, and what is printed.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <net/if.h>
#include <nlohmann/json.hpp>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "netlink.h"
#include "sa_spec.h"
#include "sockets.h"

namespace quic_sadb {
namespace {

// Objects keep the order in which they are made.
using Json = nlohmann::ordered_json;

constexpr std::size_t kKeyFileMax = std::size_t{64} << 10;
constexpr std::size_t kBatchFileMax = std::size_t{1} << 30;

struct Options {
    bool json = false;
    std::string device;
    std::string keys;
    std::string batch;
    std::string cipher;
    std::string uid;
    std::optional<std::uint64_t> packet_limit;
    std::vector<std::uint32_t> indexes;
    std::vector<std::uint64_t> inodes;
    std::optional<std::uint32_t> pid;
    bool keep_going = false;
    bool quiet = false;
    std::uint64_t count = 0;
};

void warn(const std::string &message) { std::cerr << "quic-sadb-ctl: " << message << '\n'; }

void print_json(const Json &json) { std::cout << json.dump() << '\n'; }

std::string join(const std::vector<std::string> &words) {
    std::string out;
    for (const std::string &word : words)
        out += (out.empty() ? "" : " ") + word;
    return out;
}

std::optional<std::uint32_t> uid_of(const Options &options) {
    if (options.uid.empty())
        return std::nullopt;
    const auto uid = parse_uid(options.uid);
    if (!uid)
        throw Error(Exit::kUsage, "--uid " + options.uid + ": no number and no user's name");
    return uid;
}

std::string device_name(std::uint32_t ifindex) {
    char name[IF_NAMESIZE] = "";
    return ::if_indextoname(ifindex, name) != nullptr ? name : "if" + std::to_string(ifindex);
}

// --- devices ---------------------------------------------------------------------------------

Json device_json(const Device &device) {
    Json json{{"ifindex", device.ifindex}, {"ifname", device.ifname}, {"enabled", device.enabled}};
    if (device.ciphers)
        json["ciphers"] = cipher_names(*device.ciphers);
    if (device.forms)
        json["forms"] = form_names(*device.forms);
    if (device.sa_max)
        json["sa_max"] = *device.sa_max;
    if (device.sa_count)
        json["sa_count"] = *device.sa_count;
    return json;
}

void print_device(const Device &device) {
    std::printf("%s: offload %s\n", device.ifname.c_str(), device.enabled ? "on" : "off");
    if (device.ciphers)
        std::printf("    ciphers: %s\n", join(cipher_names(*device.ciphers)).c_str());
    if (device.forms)
        std::printf("    keys by: %s\n", join(form_names(*device.forms)).c_str());
    if (device.forms && (*device.forms & UDP_CRYPTO_DEV_FORM_INDEX) == 0)
        return; // no database
    if (device.sa_count && device.sa_max && *device.sa_max != 0)
        std::printf("    SAs held: %" PRIu32 " of %" PRIu32 "\n", *device.sa_count, *device.sa_max);
    else if (device.sa_count)
        std::printf("    SAs held: %" PRIu32 "\n", *device.sa_count);
}

Exit device_show(const Options &options) {
    Client client;
    std::vector<Device> devices;
    if (options.device.empty()) {
        devices = client.devices();
    } else {
        const unsigned ifindex = ::if_nametoindex(options.device.c_str());
        if (ifindex == 0)
            throw Error(Exit::kNotThere, options.device + ": no such device");
        devices.push_back(client.device(ifindex));
    }
    if (options.json) {
        Json list = Json::array();
        for (const Device &device : devices)
            list.push_back(device_json(device));
        print_json(list);
    } else {
        for (const Device &device : devices)
            print_device(device);
    }
    return Exit::kDone;
}

// --- security associations ---------------------------------------------------------------------

Json sa_json(const Sa &sa) {
    Json json{{"index", sa.index},
              {"cipher", cipher_name(sa.cipher)},
              {"uid", sa.uid},
              {"origin", origin_name(sa.origin)},
              {"same_uid", (sa.flags & UDP_CRYPTO_SA_F_SAME_UID) != 0},
              {"state", state_name(sa.state)}};
    if (sa.ifindex != 0)
        json["ifname"] = device_name(sa.ifindex);
    json["packets"] = sa.packets;
    json["bytes"] = sa.bytes;
    json["packets_software"] = sa.packets_software;
    json["packets_dropped"] = sa.packets_dropped;
    if (sa.packet_limit != 0)
        json["packet_limit"] = sa.packet_limit;
    if (sa.inode != 0)
        json["inode"] = sa.inode;
    return json;
}

std::string sa_text(const Sa &sa) {
    std::string out = "sa " + std::to_string(sa.index) + " " + cipher_name(sa.cipher) + " uid " +
                      std::to_string(sa.uid) + " by " + origin_name(sa.origin) + " " +
                      state_name(sa.state);
    if (sa.ifindex != 0)
        out += " dev " + device_name(sa.ifindex);
    out += " packets " + std::to_string(sa.packets) + " bytes " + std::to_string(sa.bytes);
    if (sa.packets_software != 0)
        out += " software " + std::to_string(sa.packets_software);
    if (sa.packets_dropped != 0)
        out += " dropped " + std::to_string(sa.packets_dropped);
    if (sa.packet_limit != 0)
        out += " limit " + std::to_string(sa.packet_limit);
    if (sa.inode != 0)
        out += " ino:" + std::to_string(sa.inode); // as ss(8) writes it
    return out;
}

std::vector<Sa> all_sas(Client &client) {
    bool changed = false;
    std::vector<Sa> sas = client.sas(changed);
    if (changed)
        warn("the table changed while it was read: some SAs may be missing");
    return sas;
}

Exit sa_show(const Options &options) {
    const auto uid = uid_of(options);
    Client client;
    std::vector<Sa> sas;
    if (options.indexes.empty()) {
        sas = all_sas(client);
    } else {
        for (const std::uint32_t index : options.indexes)
            sas.push_back(client.sa(index));
    }
    if (uid)
        std::erase_if(sas, [&uid](const Sa &sa) { return sa.uid != *uid; });
    if (options.json) {
        Json list = Json::array();
        for (const Sa &sa : sas)
            list.push_back(sa_json(sa));
        print_json(list);
    } else {
        for (const Sa &sa : sas)
            std::printf("%s\n", sa_text(sa).c_str());
    }
    return Exit::kDone;
}

// --- sockets -----------------------------------------------------------------------------------

// What the SAs of one socket come to.
struct SocketSum {
    std::map<std::string, std::uint64_t> states; // SAs by who does the work for them
    std::uint64_t sas = 0;
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    std::uint64_t packets_software = 0;
    std::uint64_t packets_dropped = 0;

    void add(const Sa &sa) {
        std::string where = state_name(sa.state);
        if (sa.ifindex != 0)
            where += " " + device_name(sa.ifindex);
        ++states[where];
        ++sas;
        packets += sa.packets;
        bytes += sa.bytes;
        packets_software += sa.packets_software;
        packets_dropped += sa.packets_dropped;
    }
};

Json socket_json(std::uint64_t inode, const SocketInfo &socket, const SocketSum &sum) {
    Json processes = Json::array();
    for (const Process &process : socket.processes)
        processes.push_back({{"pid", process.pid}, {"name", process.name}});
    return {{"inode", inode},
            {"local", socket.local},
            {"peer", socket.peer},
            {"processes", processes},
            {"sas", sum.sas},
            {"states", sum.states},
            {"packets", sum.packets},
            {"bytes", sum.bytes},
            {"packets_software", sum.packets_software},
            {"packets_dropped", sum.packets_dropped}};
}

void print_socket(std::uint64_t inode, const SocketInfo &socket, const SocketSum &sum) {
    std::printf("ino:%" PRIu64 " %s", inode, socket.local.empty() ? "*" : socket.local.c_str());
    if (!socket.peer.empty())
        std::printf(" to %s", socket.peer.c_str());
    for (const Process &process : socket.processes)
        std::printf(" pid %" PRIu32 " (%s)", process.pid, process.name.c_str());
    std::printf("\n    SAs %" PRIu64 ":", sum.sas);
    const char *separator = "";
    for (const auto &[state, count] : sum.states) {
        std::printf("%s %" PRIu64 " %s", separator, count, state.c_str());
        separator = ",";
    }
    std::printf("\n    packets %" PRIu64 " bytes %" PRIu64 " software %" PRIu64 " dropped %" PRIu64
                "\n",
                sum.packets, sum.bytes, sum.packets_software, sum.packets_dropped);
}

Exit socket_show(const Options &options) {
    Client client;
    std::map<std::uint64_t, SocketSum> sums;
    for (const Sa &sa : all_sas(client))
        if (sa.inode != 0)
            sums[sa.inode].add(sa);
    for (const std::uint64_t inode : options.inodes)
        if (!sums.contains(inode))
            throw Error(Exit::kNotThere,
                        "ino:" + std::to_string(inode) + ": no socket with SAs has that inode");
    if (!options.inodes.empty())
        std::erase_if(sums, [&options](const auto &entry) {
            return std::find(options.inodes.begin(), options.inodes.end(), entry.first) ==
                   options.inodes.end();
        });

    std::set<std::uint64_t> inodes;
    for (const auto &[inode, sum] : sums)
        inodes.insert(inode);
    Json list = Json::array();
    for (const auto &[inode, socket] : find_sockets(inodes)) {
        const auto is_asked_for = [&options](const Process &process) {
            return process.pid == *options.pid;
        };
        if (options.pid &&
            std::none_of(socket.processes.begin(), socket.processes.end(), is_asked_for))
            continue;
        if (options.json)
            list.push_back(socket_json(inode, socket, sums[inode]));
        else
            print_socket(inode, socket, sums[inode]);
    }
    if (options.json)
        print_json(list);
    return Exit::kDone;
}

// Whoever may read a file of keys has the keys.
void warn_of_readable_file(const std::string &path) {
    struct stat status {};
    if (path != "-" && ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
        (status.st_mode & (S_IRGRP | S_IROTH)) != 0)
        warn("warning: " + path + " holds keys and can be read by others");
}

SaDefaults defaults_of(const Options &options) {
    SaDefaults defaults;
    if (!options.cipher.empty())
        defaults.cipher = cipher_by_name(options.cipher);
    defaults.uid = uid_of(options);
    defaults.packet_limit = options.packet_limit;
    return defaults;
}

Exit sa_add_one(const Options &options) {
    const SaDefaults defaults = defaults_of(options);
    warn_of_readable_file(options.keys);
    const SecretText text = read_secret_file(options.keys, kKeyFileMax);
    SaSpec sa;
    try {
        sa = parse_sa({text.data(), text.size()}, defaults);
    } catch (const Error &error) {
        throw Error(error.exit(),
                    (options.keys == "-" ? "standard input" : options.keys) + ": " + error.what());
    }
    Client client;
    const std::uint32_t index = client.add(sa);
    if (options.json)
        print_json({{"index", index}});
    else
        std::printf("%" PRIu32 "\n", index);
    return Exit::kDone;
}

// On a terminal a line that is rewritten; elsewhere a line for every tenth, if there is much to do.
class Progress {
  public:
    Progress(std::size_t total, bool quiet)
        : total_(total), terminal_(::isatty(STDERR_FILENO) == 1),
          quiet_(quiet || (!terminal_ && total < 1000)) {}
    ~Progress() { clear(); }
    Progress(const Progress &) = delete;
    Progress &operator=(const Progress &) = delete;

    void at(std::size_t done) {
        const std::size_t percent = total_ == 0 ? 100 : done * 100 / total_;
        if (quiet_ || percent == shown_ || (!terminal_ && percent % 10 != 0))
            return;
        shown_ = percent;
        std::cerr << (terminal_ ? "\r" : "") << done << " of " << total_ << " SAs (" << percent
                  << "%)" << (terminal_ ? "" : "\n");
    }
    void clear() {
        if (terminal_ && !quiet_ && shown_ != kNothing)
            std::cerr << "\r\x1b[K";
        shown_ = kNothing;
    }

  private:
    static constexpr std::size_t kNothing = ~std::size_t{0};
    std::size_t total_;
    std::size_t shown_ = kNothing;
    bool terminal_;
    bool quiet_;
};

struct BatchLine {
    std::size_t number;
    std::uint32_t index = 0; // 0: not added
};

// What was added before a line was refused goes again.
void roll_back(Client &client, const std::vector<BatchLine> &lines) {
    std::size_t left = 0;
    Client::Pipeline pipeline(
        client, [&left](std::size_t, std::uint32_t, const std::optional<Refusal> &refusal) {
            if (refusal && refusal->error != ENOENT)
                ++left;
        });
    for (const BatchLine &line : lines)
        if (line.index != 0)
            pipeline.del(0, line.index);
    pipeline.finish();
    if (left != 0)
        warn(std::to_string(left) + " SAs that had been added could not be deleted again");
}

Exit sa_add_batch(const Options &options) {
    const std::string name = options.batch == "-" ? "standard input" : options.batch;
    const SaDefaults defaults = defaults_of(options);
    warn_of_readable_file(options.batch);
    const SecretText text = read_secret_file(options.batch, kBatchFileMax);
    const std::string_view view(text.data(), text.size());

    // First the whole file, so that a bad line is told before anything is done.
    std::vector<BatchLine> lines;
    for_each_sa(view, name, defaults,
                [&lines](std::size_t number, const SaSpec &) { lines.push_back({number}); });

    Client client;
    Progress progress(lines.size(), options.quiet);
    std::optional<std::pair<std::size_t, Refusal>> first;
    std::size_t refused = 0;
    std::size_t answered = 0;
    Json errors = Json::array();
    Client::Pipeline pipeline(
        client, [&](std::size_t tag, std::uint32_t index, const std::optional<Refusal> &refusal) {
            progress.at(++answered);
            if (!refusal) {
                lines[tag].index = index;
                return;
            }
            ++refused;
            if (!first)
                first.emplace(lines[tag].number, *refusal);
            if (!options.keep_going)
                return;
            progress.clear();
            warn(name + ":" + std::to_string(lines[tag].number) + ": " + refusal->text());
            errors.push_back({{"line", lines[tag].number}, {"error", refusal->text()}});
        });
    std::size_t tag = 0;
    for_each_sa(view, name, defaults, [&](std::size_t, const SaSpec &sa) {
        if (!first || options.keep_going)
            pipeline.add(tag++, sa);
    });
    pipeline.finish();
    progress.clear();

    if (first && !options.keep_going) {
        roll_back(client, lines);
        throw Error(exit_of_errno(first->second.error), name + ":" + std::to_string(first->first) +
                                                            ": " + first->second.text() +
                                                            "; no SA was added");
    }
    if (options.json) {
        Json added = Json::array();
        for (const BatchLine &line : lines)
            if (line.index != 0)
                added.push_back({{"line", line.number}, {"index", line.index}});
        print_json({{"added", lines.size() - refused}, {"sas", added}, {"errors", errors}});
    } else {
        for (const BatchLine &line : lines)
            if (line.index != 0)
                std::printf("%zu %" PRIu32 "\n", line.number, line.index);
    }
    return first ? Exit::kIncomplete : Exit::kDone;
}

Exit sa_add(const Options &options) {
    // No core dump, and no debugger of the same user, gets to see the keys.
    ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return options.batch.empty() ? sa_add_one(options) : sa_add_batch(options);
}

Exit sa_del(const Options &options) {
    Client client;
    for (const std::uint32_t index : options.indexes) {
        try {
            client.del(index);
        } catch (const Refused &refused) {
            throw Error(refused.exit(), "sa " + std::to_string(index) + ": " + refused.what());
        }
    }
    if (options.json)
        print_json({{"deleted", options.indexes.size()}});
    return Exit::kDone;
}

Exit sa_flush(const Options &options) {
    const auto uid = uid_of(options);
    Client client;
    const std::uint32_t count = client.flush(uid);
    if (options.json)
        print_json({{"deleted", count}});
    else
        std::printf("%" PRIu32 " deleted\n", count);
    return Exit::kDone;
}

// --- the rest ------------------------------------------------------------------------------------

Exit stats(const Options &options) {
    Client client;
    Json json = Json::object();
    for (const Statistic &statistic : client.statistics()) {
        std::string name = statistic.name;
        if (options.json) {
            std::replace(name.begin(), name.end(), '-', '_');
            json[name] = statistic.value;
        } else {
            std::printf("%-20s %" PRIu64 "\n", name.c_str(), statistic.value);
        }
    }
    if (options.json)
        print_json(json);
    return Exit::kDone;
}

Exit monitor(const Options &options) {
    Client client;
    client.listen();
    if (!options.quiet)
        std::cerr << "listening\n";
    std::uint64_t seen = 0;
    client.events([&](const Event &event) {
        const char *what = event.kind == EventKind::kAdded     ? "add"
                           : event.kind == EventKind::kDeleted ? "del"
                                                               : "lost";
        if (options.json) {
            Json json{{"event", what}};
            if (event.kind != EventKind::kLost)
                json["sa"] = sa_json(event.sa);
            print_json(json);
        } else if (event.kind == EventKind::kLost) {
            std::cout << "lost: events came faster than they were read\n";
        } else {
            std::cout << what << ' ' << sa_text(event.sa) << '\n';
        }
        std::cout.flush();
        return std::cout.good() && (options.count == 0 || ++seen < options.count);
    });
    return Exit::kDone;
}

int run(int argc, char **argv) {
    Options options;
    Exit (*verb)(const Options &) = nullptr;

    CLI::App app("The kernel's database of QUIC security associations (SAs); see quic-sadb-ctl(8)",
                 "quic-sadb-ctl");
    app.require_subcommand(1);
    app.fallthrough();
    app.add_flag("-j,--json", options.json, "print JSON");

    const auto cipher = [&options](CLI::App *command) {
        command
            ->add_option("--cipher", options.cipher,
                         "aes-128-gcm, aes-256-gcm, chacha20-poly1305, aes-128-ccm")
            ->check([](const std::string &name) {
                return cipher_by_name(name) != 0 ? std::string() : "unknown cipher " + name;
            });
    };
    const auto index_check = CLI::Range(1U, (1U << 24) - 1);

    CLI::App *dev = app.add_subcommand("dev", "network devices that protect QUIC packets");
    dev->require_subcommand(1);
    CLI::App *dev_show = dev->add_subcommand("show", "show one or all, and what they can do");
    dev_show->add_option("DEVICE", options.device, "name of the device");
    dev_show->callback([&verb] { verb = device_show; });

    CLI::App *sa = app.add_subcommand("sa", "security associations");
    sa->require_subcommand(1);
    CLI::App *add = sa->add_subcommand("add", "add one, or those of a file; prints the index");
    auto *keys = add->add_option("--keys", options.keys, "file with one SA's keys; - for stdin");
    auto *batch =
        add->add_option("--batch", options.batch, "file with an SA on each line; - for stdin");
    keys->excludes(batch);
    cipher(add);
    add->add_option("--uid", options.uid, "user (number or name) whose sockets may send with it");
    add->add_option("--packet-limit", options.packet_limit, "packets it may protect (0: no limit)");
    add->add_flag("--keep-going", options.keep_going, "with --batch: add what can be added")
        ->needs(batch);
    add->add_flag("-q,--quiet", options.quiet, "show no progress");
    add->callback([&] {
        if (options.keys.empty() && options.batch.empty())
            throw CLI::RequiredError("--keys or --batch");
        verb = sa_add;
    });
    CLI::App *del = sa->add_subcommand("del", "delete SAs");
    del->add_option("INDEX", options.indexes, "numbers")->required()->check(index_check);
    del->callback([&verb] { verb = sa_del; });
    CLI::App *show = sa->add_subcommand("show", "show some or all; never a key");
    show->add_option("INDEX", options.indexes, "numbers")->check(index_check);
    show->add_option("--uid", options.uid, "only those of this user");
    show->callback([&verb] { verb = sa_show; });
    CLI::App *flush = sa->add_subcommand("flush", "delete all that were added over netlink");
    flush->add_option("--uid", options.uid, "only those of this user");
    flush->callback([&verb] { verb = sa_flush; });

    CLI::App *socket = app.add_subcommand("socket", "sockets that have SAs");
    socket->require_subcommand(1);
    CLI::App *socket_list = socket->add_subcommand(
        "show", "show some or all: where, whose, and who protects their packets");
    socket_list->add_option("INODE", options.inodes, "numbers, as ss -e shows them");
    socket_list->add_option("--pid", options.pid, "only those of this process");
    socket_list->callback([&verb] { verb = socket_show; });

    app.add_subcommand("stats", "statistics of the network namespace")->callback([&verb] {
        verb = stats;
    });
    CLI::App *mon = app.add_subcommand("monitor", "print SAs as they come and go");
    mon->add_option("--count", options.count, "end after so many events");
    mon->add_flag("-q,--quiet", options.quiet, "do not say when it begins");
    mon->callback([&verb] { verb = monitor; });

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? 0 : static_cast<int>(Exit::kUsage);
    }
    try {
        const Exit exit = verb(options);
        std::cout.flush();
        if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout)
            throw Error(Exit::kRefused, std::string("standard output: ") + std::strerror(errno));
        return static_cast<int>(exit);
    } catch (const Error &error) {
        warn(std::string("error: ") + error.what());
        return static_cast<int>(error.exit());
    }
}

} // namespace
} // namespace quic_sadb

int main(int argc, char **argv) {
    try {
        return quic_sadb::run(argc, argv);
    } catch (const std::exception &error) {
        std::cerr << "quic-sadb-ctl: error: " << error.what() << '\n';
        return static_cast<int>(quic_sadb::Exit::kRefused);
    }
}
