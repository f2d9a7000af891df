// SPDX-License-Identifier: MIT
//
// The netlink family udp_crypto (<linux/udp_crypto_nl.h>) as C++: requests, answers, notifications.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <libmnl/libmnl.h>
#include <linux/udp_crypto.h>

#include "error.h"
#include "sa_spec.h"
#include "secret.h"

namespace quic_sadb {

struct Device {
    std::uint32_t ifindex = 0;
    std::string ifname;
    bool enabled = false;
    // Only if the driver tells:
    std::optional<std::uint32_t> ciphers; // 1 << enum udp_quic_cipher
    std::optional<std::uint32_t> forms;   // enum udp_crypto_dev_form
    std::optional<std::uint32_t> sa_max;  // 0: no database, or no limit
    std::optional<std::uint32_t> sa_count;
};

struct Sa {
    std::uint32_t index = 0;
    std::uint32_t cipher = 0; // enum udp_quic_cipher
    std::uint32_t uid = 0;
    std::uint32_t origin = 0; // enum udp_crypto_sa_origin
    std::uint32_t flags = 0;  // UDP_CRYPTO_SA_F_*
    std::uint32_t state = 0;  // enum udp_crypto_sa_state
    std::uint32_t ifindex = 0;
    std::uint64_t packet_limit = 0;
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    std::uint64_t packets_software = 0;
    std::uint64_t packets_dropped = 0;
    std::uint64_t inode = 0; // of the socket that made it; 0: none
};

struct Statistic {
    const char *name; // as in the specification
    std::uint64_t value;
};

// What the kernel answered to a request that it refused.
struct Refusal {
    int error = 0;         // errno value, positive
    std::string message;   // of the extended acknowledgment, or empty
    std::string attribute; // that it complains about, as the specification names it, or empty
    // "no SA has that index (index): No such file or directory"
    std::string text() const;
};

// A refusal, thrown by the calls that make one request.
class Refused : public Error {
  public:
    explicit Refused(const Refusal &refusal)
        : Error(exit_of_errno(refusal.error), refusal.text()), refusal_(refusal) {}
    const Refusal &refusal() const { return refusal_; }

  private:
    Refusal refusal_;
};

enum class EventKind { kAdded, kDeleted, kLost };

struct Event {
    EventKind kind;
    Sa sa; // nothing in it with kLost
};

// A netlink socket that knows the family. Not for more than one thread at a time.
class Client {
  public:
    // Throws Error: kNoFamily where the kernel does not have it.
    Client();
    ~Client();
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;

    // The calls throw Refused when the kernel says no, and Error when the system fails.
    Device device(std::uint32_t ifindex);
    std::vector<Device> devices();
    std::uint32_t add(const SaSpec &sa); // the index
    void del(std::uint32_t index);
    Sa sa(std::uint32_t index);
    // Those of a table that stood still; when it changes again and again, of one that did not, and
    // @changed says so.
    std::vector<Sa> sas(bool &changed);
    std::uint32_t flush(std::optional<std::uint32_t> uid);
    std::vector<Statistic> statistics();

    // Many requests under way at once. Each answer, in the order of the requests, goes to the
    // callback of its kind.
    class Pipeline {
      public:
        using Answer = std::function<void(std::size_t tag, std::uint32_t index,
                                          const std::optional<Refusal> &refusal)>;
        // @answer: @tag is that of the request; @index is given for an SA added.
        Pipeline(Client &client, Answer answer) : client_(client), answer_(std::move(answer)) {}
        void add(std::size_t tag, const SaSpec &sa);
        void del(std::size_t tag, std::uint32_t index);
        // Sends what waits and takes every answer.
        void finish();

      private:
        void *room();
        void queued(const nlmsghdr *message, std::size_t tag);

        // As many answers as surely fit in the receive buffer.
        static constexpr std::size_t kWindow = 64;
        static constexpr std::size_t kMessageMax = 256;
        Client &client_;
        Answer answer_;
        SecretBytes buffer_ = SecretBytes(kWindow * kMessageMax);
        std::size_t used_ = 0;
        std::vector<std::size_t> tags_;
        std::uint32_t first_sequence_ = 0;
    };

    // Joins the notification group.
    void listen();
    // Waits for events and calls @event for each, until it returns false.
    void events(const std::function<bool(const Event &)> &event);

  private:
    struct Family {
        std::uint16_t id = 0;
        std::optional<std::uint32_t> group;
    };
    Family resolve();
    nlmsghdr *begin(void *buffer, std::uint8_t command, std::uint16_t flags);
    void send(const void *data, std::size_t length);
    std::size_t receive();
    // Sends @request and calls @message for each message of the answer. Returns whether a dump met
    // changes.
    bool exchange(const nlmsghdr *request, const std::function<void(const nlmsghdr *)> &message);

    mnl_socket *socket_ = nullptr;
    std::uint32_t port_ = 0;
    std::uint32_t sequence_ = 1;
    Family family_;
    std::vector<char> answer_ = std::vector<char>(65536);
};

// Names of the specification.
std::string state_name(std::uint32_t state);
std::string origin_name(std::uint32_t origin);
std::vector<std::string> form_names(std::uint32_t forms);
std::vector<std::string> cipher_names(std::uint32_t ciphers);

} // namespace quic_sadb
