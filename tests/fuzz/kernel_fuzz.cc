// SPDX-License-Identifier: GPL-2.0
//
// Fuzzes the kernel's side of the interface: a program of system calls made of the input's bytes,
// run in a guest (./run fuzz kernel). UDP_CRYPTO_STATE, UDP_QUIC_CRYPTO among all other control
// messages, the netlink family, and what sockets, devices, threads, processes and namespaces do
// around them.
//
// What is judged: no datagram that was to be protected arrives as plaintext, all SAs are gone when
// their sockets are, a refused send leaves no trace, and the kernel has nothing to complain about
// (KASAN, lockdep, UBSAN, WARN). libFuzzer learns from KCOV where the kernel has it, and from the
// results of the calls everywhere.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <regex>
#include <span>
#include <string_view>
#include <thread>
#include <tuple>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/ethtool.h>
#include <linux/genetlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "../../sim/fuzz/input.h"
#include "kcov.h"
#include "raw_netlink.h"
#include "world.h"

namespace quic_test {
namespace {

using connectx::fuzz::Input;

constexpr unsigned kSlots = 6;
constexpr std::uint16_t kPort = 4433;

[[noreturn]] void fail(const std::string &what) {
    std::fprintf(stderr, "does not hold: %s\n", what.c_str());
    std::abort();
}

// The scene, made once: two hosts with a simulated device that offloads between them, listeners at
// all addresses, and memory whose end is the end of what may be read.
class Scene {
  public:
    Scene() : world(Wire::kOffload) {
        log_ = UniqueFd(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
        ::lseek(log_.get(), 0, SEEK_END);
        const std::size_t size = 2 * kRoom + 4096;
        auto *memory =
            static_cast<std::uint8_t *>(::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
        if (memory == MAP_FAILED || ::mprotect(memory + 2 * kRoom, 4096, PROT_NONE) != 0)
            throw_errno("mmap");
        edge_ = memory + 2 * kRoom;
        for (const auto &[ns, device, address] :
             {std::tuple{&world.a, "va", "10.1.7.1"}, std::tuple{&world.b, "vb", "10.1.7.2"}}) {
            const std::string vlan = std::string(device) + ".7";
            ns->command(std::string("ip link add link ") + device + " name " + vlan +
                        " type vlan id 7; ip addr add " + address + "/24 dev " + vlan +
                        "; ip link set " + vlan + " up");
        }
        for (const NetNamespace *ns : {&world.a, &world.b})
            ns->run([this] {
                UniqueFd fd = udp_socket(AF_INET6);
                set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20);
                bind_to(fd.get(), Address::v6("::", kPort));
                receivers_.push_back(std::move(fd));
            });
        world.a.run([this] {
            netlink = std::make_unique<RawNetlink>();
            netlink->join(); // somebody is told of what changes
        });
        trace();
    }

    // Of the device: the offload, and those without which the stack cuts batches; of a VLAN device
    // on it, to which netdevsim does not pass the offload on: it stays off (netdev_features.h).
    struct Feature {
        const char *device;
        unsigned bit;
    };
    static constexpr std::array<Feature, 6> kFeatures{{{"va", 37},    // NETIF_F_HW_UDP_CRYPTO_TX
                                                       {"va", 33},    // NETIF_F_GSO_UDP_L4
                                                       {"va", 11},    // NETIF_F_GSO
                                                       {"va.7", 37},  // NETIF_F_HW_UDP_CRYPTO_TX
                                                       {"va.7", 3},   // NETIF_F_HW_CSUM
                                                       {"va.7", 0}}}; // NETIF_F_SG
    // As ethtool does; 0 or -1.
    int set_feature(const Feature &feature, bool on) {
        constexpr std::size_t kSize =
            sizeof(ethtool_sfeatures) + 2 * sizeof(ethtool_set_features_block);
        alignas(ethtool_sfeatures) std::array<std::uint8_t, kSize> memory{};
        auto *set = reinterpret_cast<ethtool_sfeatures *>(memory.data());
        set->cmd = ETHTOOL_SFEATURES;
        set->size = 2;
        set->features[feature.bit / 32].valid = 1U << feature.bit % 32;
        set->features[feature.bit / 32].requested = on ? 1U << feature.bit % 32 : 0;
        ifreq request{};
        std::strcpy(request.ifr_name, feature.device);
        request.ifr_data = reinterpret_cast<char *>(set);
        return device_call(SIOCETHTOOL, request);
    }
    int set_mtu(int mtu) {
        ifreq request{};
        std::strcpy(request.ifr_name, "va");
        request.ifr_mtu = mtu;
        return device_call(SIOCSIFMTU, request);
    }
    // Packets wait for 3 ms in front of the device, or do not. By hand: to start tc takes seconds.
    void set_delay(bool on) {
        const std::scoped_lock one(delay_);
        if (on == delayed_)
            return;
        struct {
            nlmsghdr header;
            tcmsg tc;
            rtattr kind;
            std::array<char, 8> name;
            rtattr options;
            tc_netem_qopt netem;
        } request{};
        request.header.nlmsg_len = on ? sizeof(request) : offsetof(decltype(request), options);
        request.header.nlmsg_type = RTM_NEWQDISC;
        request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
        request.tc.tcm_ifindex = static_cast<int>(::if_nametoindex("va"));
        request.tc.tcm_parent = TC_H_ROOT;
        request.kind = {RTA_LENGTH(sizeof(request.name)), TCA_KIND};
        std::strcpy(request.name.data(), on ? "netem" : "pfifo");
        request.options = {RTA_LENGTH(sizeof(request.netem)), TCA_OPTIONS};
        request.netem.latency = 3'000'000 / 64; // psched ticks are 64 ns
        request.netem.limit = 3;                // what is more is lost
        const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
        struct {
            nlmsghdr header;
            nlmsgerr error;
        } answer{};
        if (::send(fd.get(), &request, request.header.nlmsg_len, 0) < 0 ||
            ::recv(fd.get(), &answer, sizeof(answer), 0) < 0)
            throw_errno("qdisc");
        if (answer.error.error != 0)
            fail(std::string("the qdisc can be set: ") + std::strerror(-answer.error.error));
        delayed_ = on;
    }

    // Tracepoints see all that happens, where the kernel has them; now and then somebody looks.
    static void trace() {
        if (::access(kTrace, W_OK) == 0)
            write_file("/sys/kernel/tracing/events/udp_crypto/enable", "1");
    }
    static void read_trace() {
        if (::access(kTrace, W_OK) != 0)
            return;
        read_file(kTrace);
        write_file(kTrace, "");
    }

    // What programs change is as it was before the next.
    void restore() {
        for (const char *limit : {"udp_crypto_max_sa", "udp_crypto_max_sa_per_uid"})
            write_file(std::string("/proc/sys/net/ipv4/") + limit, "1000");
        set_delay(false);
        if (!changed_)
            return;
        for (const Feature &feature : kFeatures)
            set_feature(feature, true);
        set_mtu(1500);
        changed_ = false;
    }

    // @bytes at the very end of readable memory.
    std::uint8_t *at_edge(ByteView bytes) {
        std::uint8_t *at = edge_ - std::min<std::size_t>(bytes.size(), kRoom);
        std::memcpy(at, bytes.data(), static_cast<std::size_t>(edge_ - at));
        return at;
    }

    // What has arrived anywhere must not be what was to be protected.
    void judge_wire() {
        std::array<std::uint8_t, 65536> buffer{};
        for (const UniqueFd &fd : receivers_)
            for (;;) {
                const ssize_t n =
                    ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT | MSG_TRUNC);
                if (n < 0)
                    break;
                ++datagrams;
                if (contains_plaintext(ByteView(buffer.data(), static_cast<std::size_t>(n))))
                    fail("what arrives is not plaintext that was to be protected");
            }
        for (const std::string &complaint : world.sniffer_b().complaints())
            if (complaint.find("checksum") == std::string::npos) // damaged on purpose
                fail(complaint);
    }

    void judge_log() {
        static const std::regex bad("BUG|WARNING|KASAN|KCSAN|UBSAN|Oops|general protection|"
                                    "possible (circular|recursive|irq)|refcount_t|"
                                    "unregister_netdevice: waiting|suspicious RCU");
        std::array<char, 8192> record{};
        for (;;) {
            const ssize_t n = ::read(log_.get(), record.data(), record.size());
            if (n < 0)
                return;
            const std::string text(record.data(), static_cast<std::size_t>(n));
            if (std::regex_search(text, bad))
                fail("the kernel has nothing to complain about: " + text);
        }
    }

    // Every SA goes with its socket; those made over netlink are flushed.
    void judge_database() {
        netlink->request(UDP_CRYPTO_CMD_SA_FLUSH);
        if (!eventually([] { return Statistics::read()["SaCurr"] == 0; }))
            fail("no SA is left when all sockets are closed");
        const Statistics now = Statistics::read();
        if (now["SaAdded"] != now["SaDeleted"])
            fail("as many SAs are deleted as were added");
        if (now["TxPackets"] < now["TxDevice"] + (now["TxSoftware"] - now["TxSoftwareLate"]))
            fail("no packet is counted at its end that was not at its start");
        if (now["TxPackets"] < now["TxLost"])
            fail("no packet is lost that was not taken");
    }

    World world;
    std::unique_ptr<RawNetlink> netlink;
    std::uint64_t datagrams = 0;

  private:
    int device_call(unsigned long call, ifreq &request) {
        changed_ = true;
        const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        return ::ioctl(fd.get(), call, &request);
    }

    static constexpr const char *kTrace = "/sys/kernel/tracing/trace";
    static constexpr std::size_t kRoom = 1 << 17;
    std::atomic<bool> changed_ = false;
    std::mutex delay_;
    bool delayed_ = false;
    UniqueFd log_;
    std::uint8_t *edge_ = nullptr;
    std::vector<UniqueFd> receivers_;
};

Scene &scene() {
    static Scene instance;
    return instance;
}

// One program. Threads share the sockets, by number, as threads of a process do.
class Program {
  public:
    explicit Program(std::array<std::atomic<int>, kSlots> &slots) : slots_(slots) {}

    void run(Input in, unsigned depth);
    static std::uint64_t calls() { return calls_; }

  private:
    int slot(Input &in) { return slots_[in.u8() % kSlots].load(); }
    // Tells libFuzzer the call, its result and how often; returns the result.
    long note(unsigned call, long result) {
        const long value = result < 0 ? -errno : result > 0;
        count_coverage(0x1000000ULL + call * 4096 + static_cast<unsigned>(-value));
        ++calls_;
        return result;
    }

    void open_socket(Input &in);
    void set_state(Input &in);
    void get_state(Input &in);
    void set_other(Input &in);
    void send(Input &in, unsigned depth);
    void connect(Input &in);
    void netlink(Input &in);
    void device(Input &in);
    void drain(Input &in);
    void child(Input &in, unsigned depth);
    void threads(Input &in, unsigned depth);
    static struct udp_quic_keys keys(Input &in);
    static Address address(Input &in);
    Bytes control(Input &in, bool &crypto);
    // An index is never given out twice: what a program uses is what it, or one before, was given.
    static void remember_sa(int fd, std::uint64_t cookie);
    static std::uint32_t some_sa(Input &in);

    static std::array<std::atomic<std::uint32_t>, 4> sas_;
    static std::atomic<unsigned> next_sa_;
    static std::atomic<std::uint64_t> calls_;
    std::array<std::atomic<int>, kSlots> &slots_;
};

std::array<std::atomic<std::uint32_t>, 4> Program::sas_;
std::atomic<unsigned> Program::next_sa_ = 0;
std::atomic<std::uint64_t> Program::calls_ = 0;
std::uint64_t calls_made() { return Program::calls(); }

// Mostly right: of 256 first bytes, few give keys that are refused.
struct udp_quic_keys Program::keys(Input &in) {
    const std::uint8_t how = in.u8();
    struct udp_quic_keys out = to_uapi(keys_of_seed(kAllCiphers[how % 4], how >> 2 & 3));
    if ((how & 0xf0) == 0xf0) {
        auto *bytes = reinterpret_cast<std::uint8_t *>(&out);
        bytes[in.below(sizeof(out))] = in.u8();
    }
    return out;
}

void Program::remember_sa(int fd, std::uint64_t cookie) {
    struct udp_crypto_sa_info info {};
    if (quic_test::get_sa(fd, cookie, &info) == 0)
        sas_[next_sa_++ % sas_.size()] = info.sa;
}

// 0: the last one
std::uint32_t Program::some_sa(Input &in) { return sas_[(next_sa_ - 1 - in.u8()) % sas_.size()]; }

// Flips some bytes and changes the length, now and then.
void damage(Input &in, Bytes &bytes) {
    const std::uint8_t how = in.u8();
    if (how < 200)
        return;
    for (unsigned n = how % 4; n > 0 && !bytes.empty(); --n)
        bytes[in.below(static_cast<std::uint32_t>(bytes.size()))] = in.u8();
    if (how >= 230)
        bytes.resize(in.u16() % (how >= 250 ? 70000 : 256));
}

template <typename T> Bytes bytes_of(const T &value) {
    const auto *at = reinterpret_cast<const std::uint8_t *>(&value);
    return {at, at + sizeof(value)};
}

void Program::open_socket(Input &in) {
    static constexpr std::array<std::array<int, 3>, 8> kKinds{{{AF_INET, SOCK_DGRAM, 0},
                                                               {AF_INET6, SOCK_DGRAM, 0},
                                                               {AF_INET, SOCK_DGRAM, 0},
                                                               {AF_INET6, SOCK_DGRAM, 0},
                                                               {AF_INET, SOCK_DGRAM, 136},
                                                               {AF_INET6, SOCK_DGRAM, 136},
                                                               {AF_INET, SOCK_STREAM, 0},
                                                               {AF_INET6, SOCK_RAW, 17}}};
    const auto &kind = kKinds[in.below(kKinds.size())];
    const int fd = ::socket(kind[0], kind[1] | SOCK_CLOEXEC | SOCK_NONBLOCK, kind[2]);
    note(1, fd);
    const int old = slots_[in.u8() % kSlots].exchange(fd);
    if (old >= 0)
        ::close(old);
}

void Program::set_state(Input &in) {
    const int fd = slot(in);
    const std::uint8_t how = in.u8();
    std::uint64_t cookie = 0;
    Bytes bytes;
    if (how % 4 != 3) {
        struct udp_crypto_sa sa {};
        cookie = in.u8() % 4;
        const std::uint32_t flags = in.u8() % 8 == 0 ? in.u32() : how >> 6;
        sa.req = request(UDP_CRYPTO_OP_ADD_SA, cookie, flags);
        sa.packet_limit = how % 16 == 1 ? in.u8() : 0;
        sa.keys = keys(in);
        bytes = bytes_of(sa);
    } else {
        bytes = bytes_of(request(UDP_CRYPTO_OP_DEL_SA, in.u8() % 4));
    }
    damage(in, bytes);
    const long result =
        note(2, ::setsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE,
                             how == 0xff ? nullptr : scene().at_edge(bytes),
                             static_cast<socklen_t>(how == 0xfe ? ~in.u32() : bytes.size())));
    if (result == 0 && how % 4 != 3)
        remember_sa(fd, cookie);
}

void Program::get_state(Input &in) {
    const int fd = slot(in);
    const std::uint8_t how = in.u8();
    struct udp_crypto_sa_info info {};
    info.req = how % 4 == 0 ? request(UDP_CRYPTO_OP_GET_CAPS, 0)
                            : request(UDP_CRYPTO_OP_GET_SA, in.u8() % 4);
    Bytes bytes = bytes_of(info);
    damage(in, bytes);
    std::uint8_t *at = scene().at_edge(bytes);
    auto length = static_cast<socklen_t>(how == 0xfe ? in.u32() : bytes.size());
    const long result = note(3, ::getsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, at, &length));
    if (result == 0 && length > bytes.size() && how != 0xfe)
        fail("getsockopt() gives no more than there is room for");
}

void Program::set_other(Input &in) {
    struct Option {
        int level;
        int name;
    };
    static constexpr std::array<Option, 20> kOptions{{{SOL_UDP, UDP_CORK},
                                                      {SOL_UDP, UDP_SEGMENT},
                                                      {SOL_UDP, UDP_SEGMENT},
                                                      {SOL_UDP, UDP_NO_CHECK6_TX},
                                                      {SOL_UDP, UDP_GRO},
                                                      {SOL_UDP, UDP_ENCAP},
                                                      {SOL_SOCKET, SO_ZEROCOPY},
                                                      {SOL_SOCKET, SO_SNDBUF},
                                                      {SOL_SOCKET, SO_NO_CHECK},
                                                      {SOL_SOCKET, SO_MARK},
                                                      {SOL_SOCKET, SO_PRIORITY},
                                                      {SOL_SOCKET, SO_BROADCAST},
                                                      {SOL_SOCKET, SO_TIMESTAMPING},
                                                      {SOL_SOCKET, SO_TXTIME},
                                                      {SOL_IP, IP_MTU_DISCOVER},
                                                      {SOL_IP, IP_TOS},
                                                      {SOL_IP, IP_RECVERR},
                                                      {SOL_IP, IP_TRANSPARENT},
                                                      {SOL_IPV6, IPV6_MTU_DISCOVER},
                                                      {SOL_IPV6, IPV6_ADDRFORM}}};
    const int fd = slot(in);
    const std::uint8_t which = in.u8();
    const std::uint8_t how = in.u8();
    if (which >= 250) {
        // Options that travel in the header.
        std::array<std::uint8_t, 8> options{1, 1, 1, 1, 0, 0, 0, 0};
        note(4, ::setsockopt(fd, SOL_IP, IP_OPTIONS, options.data(), how % 9));
        return;
    }
    const Option &option = kOptions[which % kOptions.size()];
    const int value = how < 64 ? how % 2 : how < 200 ? how * 16 : static_cast<int>(in.u32());
    note(4 + 16 * (1 + which % kOptions.size()),
         ::setsockopt(fd, option.level, option.name, &value, sizeof(value)));
}

Address Program::address(Input &in) {
    switch (in.u8() % 13) {
    case 0:
        return Address::v4("127.0.0.1", kPort);
    case 1:
        return Address::v6("::1", kPort);
    case 2:
        return Address::v4("10.1.1.2", kPort);
    case 3:
        return Address::v6("fd01::2", kPort);
    case 4:
        return Address::mapped("10.1.1.2", kPort);
    case 5:
        return Address::v4("10.1.1.1", kPort);
    case 6:
        return Address::v4("224.0.0.99", kPort);
    case 7:
        return Address::v6("ff02::99", kPort);
    case 8:
        return Address::v4("10.1.1.255", kPort);
    case 9:
        return Address::v4("10.1.1.77", kPort); // nobody is there
    case 10:
        return Address::v4("192.0.2.1", kPort); // no route
    case 11:
        return Address::v4("10.1.7.2", kPort); // VLAN
    default:
        return Address::v4("10.1.1.2", in.u16());
    }
}

constexpr PacketShape kShape{.cid_length = 4, .pn_length = 2};

Bytes Program::control(Input &in, bool &crypto) {
    Control out;
    for (unsigned n = in.u8() % 5; n > 0; --n) {
        const std::uint8_t which = in.u8();
        switch (which % 12) {
        case 0:
        case 1:
        case 2: {
            struct udp_quic_crypto c {};
            const std::uint8_t how = in.u8();
            c.pn = how < 128 ? 0 : how < 250 ? in.u16() : in.u64();
            c.sa = how < 230 ? some_sa(in) : how < 240 ? in.u8() : in.u32();
            c.pn_offset = static_cast<std::uint16_t>(how < 240 ? kShape.pn_offset() : in.u16());
            c.flags = static_cast<std::uint16_t>(how < 245 ? how & 1 : in.u16());
            Bytes bytes = bytes_of(c);
            damage(in, bytes);
            out.add(SOL_UDP, UDP_QUIC_CRYPTO, bytes.data(), bytes.size());
            crypto = true;
            break;
        }
        case 3: {
            struct udp_quic_crypto_inline c {};
            c.crypto.sa = UDP_QUIC_CRYPTO_SA_INLINE;
            c.crypto.pn = in.u8();
            c.crypto.pn_offset = static_cast<std::uint16_t>(kShape.pn_offset());
            c.crypto.flags = which >> 7;
            c.keys = keys(in);
            Bytes bytes = bytes_of(c);
            damage(in, bytes);
            out.add(SOL_UDP, UDP_QUIC_CRYPTO, bytes.data(), bytes.size());
            crypto = true;
            break;
        }
        case 4:
        case 5: {
            const std::uint16_t size = which < 200 ? 100 + in.u8() * 4 : in.u16();
            out.add(SOL_UDP, UDP_SEGMENT, &size, which == 255 ? 1 : sizeof(size));
            break;
        }
        case 6: {
            in_pktinfo info{};
            info.ipi_ifindex = in.u8() % 4;
            info.ipi_spec_dst.s_addr = in.flag() ? htonl(INADDR_LOOPBACK) : 0;
            out.add(SOL_IP, IP_PKTINFO, &info, sizeof(info));
            break;
        }
        case 7: {
            in6_pktinfo info{};
            info.ipi6_ifindex = in.u8() % 4;
            out.add(SOL_IPV6, IPV6_PKTINFO, &info, sizeof(info));
            break;
        }
        case 8: {
            const int value = in.u8();
            static constexpr std::array<std::array<int, 2>, 6> kInts{{{SOL_IP, IP_TTL},
                                                                      {SOL_IP, IP_TOS},
                                                                      {SOL_IPV6, IPV6_HOPLIMIT},
                                                                      {SOL_IPV6, IPV6_TCLASS},
                                                                      {SOL_IPV6, IPV6_DONTFRAG},
                                                                      {SOL_SOCKET, SO_MARK}}};
            const auto &kind = kInts[in.below(kInts.size())];
            out.add(kind[0], kind[1], &value, sizeof(value));
            break;
        }
        case 9: {
            // An extension header: a routing header or options.
            Bytes header(8, 0);
            header[4] = in.u8();
            out.add(SOL_IPV6, in.flag() ? IPV6_DSTOPTS : IPV6_RTHDR, header.data(), header.size());
            break;
        }
        case 10: {
            const std::uint64_t when = in.u64();
            out.add(SOL_SOCKET, SCM_TXTIME, &when, sizeof(when));
            break;
        }
        default: {
            const Bytes any = in.bytes(in.u8() % 64);
            out.add(in.u8() % 4 == 0 ? static_cast<int>(in.u32()) : SOL_UDP, in.u8(), any.data(),
                    any.size());
        }
        }
    }
    Bytes bytes = out.bytes();
    if (in.u8() >= 250 && !bytes.empty()) {
        bytes[in.below(static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), 24)))] =
            in.u8();
        crypto = false; // it may ask for something else now, or for nothing
    }
    return bytes;
}

// What a send that is taken adds to.
std::array<std::uint64_t, 4> taken() {
    const Statistics now = Statistics::read();
    return {now["TxPackets"], now["TxBytes"], now["TxSends"], now["TxLost"]};
}

void Program::send(Input &in, unsigned depth) {
    const int fd = slot(in);
    const std::uint8_t how = in.u8();
    bool crypto = false;
    Bytes cmsgs = control(in, crypto);
    // Packets of 84 bytes with room for a tag, numbered from what the message most often says.
    Bytes data;
    for (unsigned n = in.u8() % 8, pn = in.u8() < 128 ? 0 : in.u16(); n > 0; --n, ++pn) {
        const Bytes packet = make_packet(kShape, pn, 84);
        data.insert(data.end(), packet.begin(), packet.end());
        if ((how & 1) != 0)
            data.insert(data.end(), UDP_QUIC_TAG_LEN, 0x5a);
    }
    if (how >= 250)
        data.resize(in.u16());
    // Only what was to be protected is recognized as plaintext.
    if (!crypto)
        std::fill(data.begin(), data.end(), 0x11);
    std::array<iovec, 4> parts{};
    std::size_t used = 0;
    std::uint8_t *at = scene().at_edge(data);
    const std::size_t size = std::min<std::size_t>(data.size(), 1 << 17);
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const std::size_t length =
            i + 1 == parts.size()
                ? size - used
                : std::min<std::size_t>(size - used, how % 8 == 7 ? in.u16() : size);
        parts[i] = {at + used, length};
        used += length;
    }
    constexpr int kProbe = 0x10; // MSG_PROBE: no header of user space has it
    static constexpr std::array<int, 12> kFlags{
        0,           0,      0,       0,           0, MSG_MORE, MSG_DONTWAIT, MSG_ZEROCOPY,
        MSG_CONFIRM, kProbe, MSG_OOB, MSG_ZEROCOPY};
    Address to = address(in);
    msghdr header{};
    if ((how & 2) == 0) {
        header.msg_name = &to.storage;
        header.msg_namelen = how >= 248 ? in.u8() % 128 : to.length;
    }
    header.msg_iov = parts.data();
    header.msg_iovlen = parts.size();
    header.msg_control = cmsgs.empty() ? nullptr : cmsgs.data();
    header.msg_controllen = cmsgs.size();
    const int flags = kFlags[in.below(kFlags.size())] | MSG_DONTWAIT | MSG_NOSIGNAL;
    const bool judged = crypto && depth == 0; // nobody else sends
    const auto before = judged ? taken() : std::array<std::uint64_t, 4>{};
    const long result = note(5, ::sendmsg(fd, &header, flags));
    if (result >= 0 && static_cast<std::size_t>(result) > size)
        fail("sendmsg() takes no more than there is");
    if (judged && result < 0 && taken() != before)
        fail("a refused send leaves no trace");
}

void Program::connect(Input &in) {
    const int fd = slot(in);
    Address to = address(in);
    if (in.u8() % 4 == 0)
        to.storage.ss_family = AF_UNSPEC;
    if (in.flag())
        note(6, ::connect(fd, to.get(), to.length));
    else
        note(7, ::bind(fd, to.get(), to.length));
}

void Program::netlink(Input &in) {
    RawNetlink &nl = *scene().netlink;
    std::vector<Attribute> attributes;
    const std::uint8_t how = in.u8();
    if (how % 2 == 0)
        attributes = sa_attributes(keys_of_seed(kAllCiphers[how >> 1 & 3], how), in.u8() % 2);
    for (unsigned n = in.u8() % 4; n > 0; --n) {
        const auto type = static_cast<std::uint16_t>(in.u8() % 20);
        const std::uint8_t length = in.u8();
        if (length == 0xff) // whichever type it is, that of one that is there
            attributes.push_back(Attribute::u32(type, some_sa(in)));
        else
            attributes.push_back({type, in.bytes(length % 40)});
    }
    const std::uint16_t flags = how < 128 ? 0 : how < 250 ? NLM_F_DUMP : in.u16();
    const std::uint8_t command = in.u8() % 12;
    Bytes message = nl.build(command, attributes, flags);
    if (how >= 240)
        message[in.below(static_cast<std::uint32_t>(message.size()))] = in.u8();
    note(8 + 16 * command, ::send(nl.fd(), message.data(), message.size(), MSG_DONTWAIT));
    for (unsigned i = 0; i < 64; ++i) {
        const auto answer = nl.receive(false);
        if (!answer)
            break;
        nlmsghdr header{};
        if (answer->size() < sizeof(header))
            continue;
        std::memcpy(&header, answer->data(), sizeof(header));
        const auto index = find_number(*answer, UDP_CRYPTO_A_SA_INDEX);
        if (command == UDP_CRYPTO_CMD_SA_ADD && header.nlmsg_type == nl.family() && index)
            sas_[next_sa_++ % sas_.size()] = static_cast<std::uint32_t>(*index);
    }
}

// Features, MTU and queue of the offloading device, and limits.
void Program::device(Input &in) {
    Scene &s = scene();
    switch (const std::uint8_t how = in.u8(); how % 8) {
    case 0:
    case 1:
        note(9, s.set_feature(Scene::kFeatures[0], how % 8 == 0));
        break;
    case 2: {
        const unsigned which = (how >> 4 & 7) % Scene::kFeatures.size();
        note(9 + 16 * which, s.set_feature(Scene::kFeatures.at(which), how >= 128));
        break;
    }
    case 3:
        note(10, s.set_mtu(how < 128 ? 1500 : 68 + in.u16() % 2000));
        break;
    case 4:
        write_file(how < 128 ? "/proc/sys/net/ipv4/udp_crypto_max_sa"
                             : "/proc/sys/net/ipv4/udp_crypto_max_sa_per_uid",
                   std::to_string(in.u8()));
        break;
    case 5:
        s.set_delay(how < 128);
        break;
    case 6:
        read_file("/proc/net/udp_crypto_stat");
        s.read_trace();
        break;
    default:
        // The device's ciphers are set up by a worker.
        std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
}

void Program::drain(Input &in) {
    const int fd = slot(in);
    std::array<std::uint8_t, 2048> buffer{};
    std::array<std::uint8_t, 512> cmsgs{};
    for (int flags : {MSG_ERRQUEUE | MSG_DONTWAIT, MSG_DONTWAIT + 0}) {
        iovec part{buffer.data(), buffer.size()};
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = cmsgs.data();
        header.msg_controllen = cmsgs.size();
        note(11, ::recvmsg(fd, &header, flags));
    }
}

// A process that inherits the sockets, perhaps in a namespace or of a user of its own, and ends.
void Program::child(Input &in, unsigned depth) {
    const std::uint8_t how = in.u8();
    const auto bytes = in.bytes(in.u8());
    const pid_t pid = ::fork();
    if (pid == 0) {
        if ((how & 1) != 0 && ::unshare(CLONE_NEWNET) == 0)
            for (auto &slot : slots_)
                if ((how & 2) != 0)
                    slot = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if ((how & 4) != 0)
            std::ignore = ::setuid(1000 + how % 2);
        Program(slots_).run(Input(bytes.data(), bytes.size()), depth + 1);
        ::_exit(0);
    }
    int status = 0;
    note(12, ::waitpid(pid, &status, 0));
    if (WIFSIGNALED(status))
        fail("the other process ends by itself, not by signal " + std::to_string(WTERMSIG(status)));
}

void Program::threads(Input &in, unsigned depth) {
    std::vector<std::thread> running;
    for (unsigned n = 2; n > 0; --n) {
        auto bytes = in.bytes(in.u8());
        running.emplace_back([this, bytes = std::move(bytes), depth] {
            Kcov kcov;
            Program(slots_).run(Input(bytes.data(), bytes.size()), depth + 1);
            kcov.collect();
        });
    }
    for (std::thread &thread : running)
        thread.join();
}

void Program::run(Input in, unsigned depth) {
    for (unsigned steps = 0; !in.empty() && steps < 48; ++steps) {
        switch (in.u8() % 32) {
        case 0:
        case 1:
            open_socket(in);
            break;
        case 2: {
            const int old = slots_[in.u8() % kSlots].exchange(-1);
            if (old >= 0)
                note(13, ::close(old));
            break;
        }
        case 3:
        case 4:
        case 5:
        case 6:
        case 7:
            set_state(in);
            break;
        case 8:
        case 9:
            get_state(in);
            break;
        case 10:
        case 11:
        case 12:
            set_other(in);
            break;
        case 13:
        case 14:
            connect(in);
            break;
        case 15:
        case 16:
        case 17:
            netlink(in);
            break;
        case 18:
            device(in);
            break;
        case 19:
        case 20:
            drain(in);
            break;
        case 21:
            if (depth == 0 && in.u8() % 4 == 0)
                child(in, depth);
            break;
        case 22:
            if (depth == 0)
                threads(in, depth);
            break;
        default:
            send(in, depth);
        }
    }
}

void run_input(Input in) {
    static Kcov kcov;
    Scene &s = scene();
    static const InNamespace inside(s.world.a);
    std::array<std::atomic<int>, kSlots> slots{};
    // Most programs need a socket of each family.
    slots[0] = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    slots[1] = ::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    for (unsigned i = 2; i < kSlots; ++i)
        slots[i] = -1;
    Program(slots).run(in, 0);
    for (auto &slot : slots)
        if (slot >= 0)
            ::close(slot);
    kcov.collect();
    s.restore();
    s.judge_wire();
    s.judge_database();
    s.judge_log();
}

// Programs that reach the main paths at once. The numbers are what the members of Program read.
class Seed {
  public:
    explicit Seed(std::uint8_t socket, std::uint8_t to = 2) : socket_(socket), to_(to) {}

    // @how: 0x40 shared, 0x80 guarded; 1: with a packet limit of 3
    Seed &add_sa(std::uint8_t cipher, std::uint8_t how = 4) {
        put({3, socket_, how, 0, 1});
        if (how % 16 == 1)
            put({3});
        return put({cipher, 0});
    }
    Seed &delete_sa() { return put({3, socket_, 3, 0, 0}); }
    Seed &get_sa() { return put({8, socket_, 1, 0, 0}); }
    Seed &get_caps() { return put({8, socket_, 0, 0}); }
    Seed &zerocopy() { return put({10, socket_, 6, 1}); }
    Seed &segment(std::uint8_t size) { return put({10, socket_, 1, size}); }
    Seed &cork(bool on) { return put({10, socket_, 0, static_cast<std::uint8_t>(on)}); }
    Seed &connect() { return put({13, socket_, to_, 1, 1}); }
    // Packets numbered from @pn with the last SA; in tag room: 1 in @how; flags: 7 zero-copy, 5
    // MSG_MORE
    Seed &packets(std::uint8_t n, std::uint16_t pn = 0, std::uint8_t how = 0,
                  std::uint8_t flags = 0) {
        const auto high = static_cast<std::uint8_t>(pn >> 8);
        const auto low = static_cast<std::uint8_t>(pn);
        const auto room = static_cast<std::uint8_t>(how & 1);
        put({31, socket_, how, static_cast<std::uint8_t>(n > 1 ? 2 : 1), 0});
        if (pn == 0)
            put({room, 0, 0});
        else
            put({static_cast<std::uint8_t>(128 + room), high, low, 0, 0});
        if (n > 1)
            put({4, 0}); // UDP_SEGMENT of 100
        put({0, n});
        if (pn == 0)
            put({0});
        else
            put({128, high, low});
        return put({to_, flags});
    }
    Seed &inline_keys(std::uint8_t cipher) {
        return put({31, socket_, 0, 1, 3, 0, cipher, 0, 0, 1, 0, to_, 0});
    }
    Seed &feature(unsigned which, bool on) {
        return put({18, static_cast<std::uint8_t>(2 + 16 * which + (on ? 128 : 0))});
    }
    Seed &mtu(std::uint16_t mtu) {
        const auto value = static_cast<std::uint16_t>(mtu - 68);
        return put(
            {18, 131, static_cast<std::uint8_t>(value >> 8), static_cast<std::uint8_t>(value)});
    }
    Seed &limit(std::uint8_t sas, bool per_uid) {
        return put({18, static_cast<std::uint8_t>(per_uid ? 132 : 4), sas});
    }
    Seed &delay(bool on) { return put({18, static_cast<std::uint8_t>(on ? 5 : 133)}); }
    Seed &statistics() { return put({18, 6}); }
    Seed &pause() { return put({18, 7}); }
    Seed &drain() { return put({19, socket_}); }
    Seed &close() { return put({2, socket_}); }
    // Over netlink: for uid 0 or 1, of an SA, of all or none
    Seed &netlink_add(std::uint8_t cipher, std::uint8_t uid = 0) {
        return put({15, static_cast<std::uint8_t>(cipher << 1), uid, 0, 2});
    }
    Seed &netlink_one(std::uint8_t command) { return put({15, 1, 1, 1, 0xff, 0, command}); }
    Seed &netlink_all(std::uint8_t command) { return put({15, 1, 0, command}); }
    Seed &netlink_dump(std::uint8_t command) { return put({15, 129, 0, command}); }
    // In another process (1: of another namespace, 4: of another user); in two threads
    Seed &child(std::uint8_t how, const Seed &program) { return put({21, 0, how}).put(program); }
    Seed &threads(const Seed &one, const Seed &two) { return put({22}).put(one).put(two); }

    Seed &put(std::initializer_list<std::uint8_t> bytes) {
        bytes_.insert(bytes_.end(), bytes);
        return *this;
    }
    Seed &put(const Seed &program) {
        bytes_.push_back(static_cast<std::uint8_t>(program.bytes_.size()));
        bytes_.insert(bytes_.end(), program.bytes_.begin(), program.bytes_.end());
        return *this;
    }
    const Bytes &bytes() const { return bytes_; }

  private:
    std::uint8_t socket_;
    std::uint8_t to_;
    Bytes bytes_;
};

std::vector<Bytes> seeds() {
    std::vector<Bytes> all;
    const auto keep = [&](const Seed &seed) { all.push_back(seed.bytes()); };
    constexpr std::array<std::array<std::uint8_t, 2>, 8> kWays{
        {{0, 0}, {0, 2}, {0, 6}, {0, 9}, {1, 1}, {1, 3}, {1, 4}, {1, 7}}};
    for (std::uint8_t cipher = 0; const auto &[socket, to] : kWays) {
        keep(Seed(socket, to)
                 .zerocopy()
                 .add_sa(cipher % 4)
                 .packets(1)
                 .packets(3)
                 .pause()
                 .packets(3, 7, 1, 7)
                 .inline_keys(cipher % 4)
                 .drain()
                 .get_sa());
        ++cipher;
    }
    for (const std::uint8_t socket : {0, 1}) {
        const auto to = static_cast<std::uint8_t>(2 + socket);
        const Seed on(socket, to);
        // Ready for the device; then what it has is taken away: it cannot encrypt, the stack cuts
        // batches, must look into the payload, has to copy
        for (unsigned which = 0; which < Scene::kFeatures.size(); ++which)
            keep(Seed(socket, which < 3 ? to : 11)
                     .add_sa(0)
                     .packets(1)
                     .pause()
                     .packets(3, 1)
                     .feature(which, false)
                     .packets(3, 4)
                     .packets(1, 7)
                     .feature(which, true)
                     .packets(1, 8));
        // The same while packets wait
        keep(Seed(on)
                 .add_sa(1)
                 .packets(1)
                 .pause()
                 .delay(true)
                 .packets(3, 1)
                 .feature(0, false)
                 .pause()
                 .packets(1, 4)
                 .delay(false));
        keep(Seed(on)
                 .add_sa(2)
                 .packets(1)
                 .pause()
                 .delay(true)
                 .packets(3, 1)
                 .inline_keys(0)
                 .delete_sa()
                 .close());
        keep(Seed(on)
                 .add_sa(0, 0x84)
                 .packets(3, 100)
                 .packets(1, 101)
                 .packets(1, 90)
                 .packets(3, 98)
                 .packets(1, 5000)
                 .packets(1, 100)
                 .get_sa());
        keep(Seed(on).add_sa(0, 1).packets(3).packets(1, 3).get_sa().add_sa(3, 0x81).packets(1, 9));
        keep(Seed(on)
                 .limit(1, false)
                 .add_sa(0)
                 .put({3, socket, 4, 1, 1, 0, 0})
                 .limit(0, true)
                 .delete_sa()
                 .add_sa(0));
        keep(Seed(on).mtu(576).add_sa(0).segment(70).packets(3).packets(7).mtu(1280).packets(1, 9));
        keep(Seed(on).add_sa(0).cork(true).packets(1).cork(false).packets(1, 0, 0, 5).packets(1));
        keep(Seed(on).connect().add_sa(0).packets(1, 0, 2).drain().statistics().get_caps());
        keep(Seed(on).netlink_add(0).packets(1).packets(3, 1).netlink_one(4).netlink_one(3).packets(
            1, 5));
        keep(Seed(on)
                 .add_sa(0, 0x44)
                 .child(0, Seed(on).packets(1).delete_sa())
                 .child(3, Seed(on).add_sa(1).packets(1))
                 .child(4, Seed(on).packets(1, 2)));
        keep(Seed(on).add_sa(0, 0xc4).threads(Seed(on).packets(3).packets(3, 8).delete_sa(),
                                              Seed(on).packets(3, 3).packets(1, 9).close()));
    }
    const Seed on(0);
    for (const std::uint8_t cipher : {0, 1, 2, 3})
        keep(Seed(on)
                 .netlink_add(cipher)
                 .netlink_add(cipher, 1)
                 .netlink_one(4)
                 .netlink_one(3)
                 .netlink_dump(4)
                 .netlink_all(5));
    keep(Seed(on)
             .add_sa(0)
             .netlink_one(4)
             .netlink_one(3)
             .netlink_dump(1)
             .netlink_dump(4)
             .netlink_all(6)
             .netlink_dump(6));
    // A device by its number
    keep(Seed(on).put({15, 1, 1, 1, 4, 2, 0, 0, 0, 1}).put({15, 1, 1, 1, 4, 9, 0, 0, 0, 1}));
    return all;
}

} // namespace
} // namespace quic_test

extern "C" int LLVMFuzzerInitialize(int *argc, char ***argv) {
    using namespace quic_test;
    // A process that merges corpora runs no input itself: its children do, each in a scene of its
    // own.
    const std::span<char *> arguments(*argv, static_cast<std::size_t>(*argc));
    if (std::any_of(arguments.begin(), arguments.end(), [](std::string_view argument) {
            return argument == "-set_cover_merge=1" || argument == "-merge=1";
        }))
        return 0;
    if (const char *folder = std::getenv("QUIC_FUZZ_SEEDS")) {
        unsigned n = 0;
        for (const Bytes &seed : seeds()) {
            std::ofstream out(std::string(folder) + "/seed-" + std::to_string(n++),
                              std::ios::binary);
            out.write(reinterpret_cast<const char *>(seed.data()),
                      static_cast<std::streamsize>(seed.size()));
            if (!out.flush()) {
                std::fprintf(stderr, "cannot write seeds to %s\n", folder);
                std::_Exit(2);
            }
        }
    }
    try {
        write_file("/proc/sys/net/core/fb_tunnels_only_for_init_net", "2");
        write_file("/proc/sys/kernel/printk_ratelimit", "0");
        scene();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "the scene cannot be made: %s\n", error.what());
        std::_Exit(2);
    }
    std::atexit([] {
        const std::vector<std::uint64_t> addresses = addresses_seen();
        std::fprintf(stderr, "calls: %llu\ndatagrams judged: %llu\nkernel addresses covered: %zu\n",
                     static_cast<unsigned long long>(calls_made()),
                     static_cast<unsigned long long>(scene().datagrams), addresses.size());
        if (const char *file = std::getenv("QUIC_FUZZ_COVERED")) {
            std::ofstream out(file);
            for (const std::uint64_t address : addresses)
                out << std::hex << address << '\n';
        }
    });
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    // An oops ends the process before libFuzzer can keep what led to it.
    static const char *const last = std::getenv("QUIC_FUZZ_LAST");
    if (last != nullptr) {
        const quic_test::UniqueFd fd(::open(last, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
        if (::write(fd.get(), data, size) != static_cast<ssize_t>(size))
            quic_test::fail("the input can be kept");
    }
    quic_test::run_input(connectx::fuzz::Input(data, size));
    return 0;
}
