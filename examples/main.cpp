// SPDX-License-Identifier: MIT
//
// quic-offload-server: an HTTP/3 file server whose 1-RTT packets the kernel protects.
#include "server.hpp"
#include "status.hpp"

#include <CLI/CLI.hpp>
#include <netdb.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>

namespace {

using namespace quic_server;

Server *running_server = nullptr;

extern "C" void on_signal(int) { running_server->stop(); }

struct Arguments {
    std::vector<std::string> listen{"0.0.0.0", "::"};
    std::uint16_t port = 4433;
    std::string document_root = ".";
    std::vector<std::string> ciphers{"AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305",
                                     "AES-128-CCM"};
    std::string stats_file;
    bool status = false;
    double max_runtime = 0;
    double idle_timeout = 30;
    TlsOptions tls;
    ServerOptions server;
};

void declare(CLI::App &app, Arguments &arguments) {
    auto &server = arguments.server;
    app.add_option("--listen", arguments.listen, "Numeric addresses to listen on")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("-p,--port", arguments.port, "UDP port, 0 for any")->capture_default_str();
    app.add_flag("--dual-stack", server.endpoint.dual_stack,
                 "Listen on :: alone, for IPv6 and (as v4-mapped addresses) IPv4");
    app.add_option("-d,--document-root", arguments.document_root, "Directory to serve")
        ->capture_default_str();

    const char *offload = "Packet protection";
    app.add_option(
           "--path", server.path,
           "Who protects 1-RTT packets: auto (the kernel if it can), kernel (or fail), user")
        ->transform(CLI::CheckedTransformer(
            std::map<std::string, PathChoice>{{"auto", PathChoice::kAuto},
                                              {"kernel", PathChoice::kKernel},
                                              {"user", PathChoice::kUser}}))
        ->group(offload);
    app.add_option("--keys", server.key_form,
                   "How sends name their keys: index (of an SA), inline (in each cmsg)")
        ->transform(CLI::CheckedTransformer(std::map<std::string, KeyForm>{
            {"index", KeyForm::kIndex}, {"inline", KeyForm::kInline}}))
        ->group(offload);
    app.add_option("--cipher", arguments.ciphers, "Cipher suites, best first")
        ->delimiter(',')
        ->capture_default_str()
        ->group(offload);
    app.add_option("--key-update-packets", server.connection.key_update_packets,
                   "Update the keys after so many packets, 0 for never")
        ->capture_default_str()
        ->group(offload);

    const char *sending = "Sending";
    app.add_flag("--gso,!--no-gso", server.endpoint.gso, "Send batches with UDP_SEGMENT (default)")
        ->group(sending);
    app.add_option("--max-batch", server.connection.max_batch_packets, "Packets in one batch")
        ->check(CLI::Range(1, 128))
        ->capture_default_str()
        ->group(sending);
    app.add_flag("--zerocopy", server.endpoint.zerocopy, "Send batches with MSG_ZEROCOPY")
        ->group(sending);

    const char *quic = "QUIC and TLS";
    app.add_option("--cid-length", server.connection.cid_length,
                   "Bytes of the server's connection IDs")
        ->check(CLI::Range(0, NGTCP2_MAX_CIDLEN))
        ->capture_default_str()
        ->group(quic);
    app.add_option("--max-connections", server.max_connections, "Refuse more at a time")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(quic);
    app.add_flag("--retry", server.retry, "Validate each client address by a Retry packet")
        ->group(quic);
    app.add_flag("!--no-pmtud", server.connection.path_mtu_discovery,
                 "Send no path MTU probes, stay at 1200 bytes")
        ->group(quic);
    app.add_option("--idle-timeout", arguments.idle_timeout, "Seconds")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(quic);
    auto *certificate = app.add_option("--certificate", arguments.tls.certificate_file,
                                       "PEM file; without it a self-signed one is made")
                            ->check(CLI::ExistingFile)
                            ->group(quic);
    app.add_option("--private-key", arguments.tls.key_file, "PEM file")
        ->check(CLI::ExistingFile)
        ->needs(certificate)
        ->group(quic);
    app.add_option("--key-log", arguments.tls.key_log_file,
                   "Append TLS secrets to this file, for Wireshark")
        ->envname("SSLKEYLOGFILE")
        ->group(quic);

    const char *running = "Running";
    app.add_option("--max-runtime", arguments.max_runtime, "End after so many seconds, 0 for never")
        ->capture_default_str()
        ->group(running);
    app.add_option("--exit-after-connections", server.exit_after_connections,
                   "End when so many connections have come and gone, 0 for never")
        ->capture_default_str()
        ->group(running);
    app.add_option("--stats-json", arguments.stats_file,
                   "Write counters there at the end, - for standard output")
        ->group(running);
    app.add_flag("--status", arguments.status,
                 "Serve a page at /status/ that shows who protects the packets, live")
        ->group(running);
    app.add_flag("-v,--verbose", server.verbose, "Tell about errors of connections")
        ->group(running);
    app.add_flag("--quic-log", server.connection.log, "ngtcp2's log of every packet on stderr")
        ->group(running);
}

bool parse_address(const std::string &text, std::uint16_t port, Address &address) {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_DGRAM;
    addrinfo *found = nullptr;
    if (getaddrinfo(text.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
        std::cerr << "--listen " << text << ": not an address\n";
        return false;
    }
    address = Address(found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

// From what was typed to what the server takes. False: a line on stderr says what is wrong.
bool complete(Arguments &arguments) {
    auto &server = arguments.server;
    if (server.endpoint.dual_stack)
        arguments.listen = {"::"};
    for (const std::string &text : arguments.listen) {
        Address address;
        if (!parse_address(text, arguments.port, address))
            return false;
        server.listen.push_back(address);
    }
    for (const std::string &name : arguments.ciphers) {
        const auto cipher = cipher_of_name(name);
        if (!cipher) {
            std::cerr << "--cipher " << name << ": known are AES-128-GCM, AES-256-GCM, "
                      << "CHACHA20-POLY1305, AES-128-CCM\n";
            return false;
        }
        arguments.tls.ciphers.push_back(*cipher);
    }
    server.max_runtime_ns = static_cast<std::uint64_t>(arguments.max_runtime * 1e9);
    server.connection.idle_timeout_ns = static_cast<std::uint64_t>(arguments.idle_timeout * 1e9);
    return true;
}

bool write_stats(const std::string &file, const Stats &stats) {
    if (file.empty())
        return true;
    if (file == "-") {
        std::cout << stats.to_json() << std::flush;
        return std::cout.good();
    }
    std::ofstream out(file);
    out << stats.to_json();
    out.close();
    if (!out)
        std::cerr << file << ": cannot be written\n";
    return out.good();
}

void catch_signals(Server &server) {
    running_server = &server;
    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGTERM);
    // They arrive in ppoll() alone.
    sigprocmask(SIG_BLOCK, &handled, nullptr);
    struct sigaction action {};
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

} // namespace

int main(int argc, char **argv) {
    Arguments arguments;
    CLI::App app("HTTP/3 file server whose 1-RTT packets the kernel or the NIC protects.\n"
                 "On kernels that cannot, it protects them itself.");
    declare(app, arguments);
    CLI11_PARSE(app, argc, argv);
    if (!complete(arguments))
        return 2;

    const auto content = DocumentRoot::open(arguments.document_root);
    if (!content)
        return 1;
    const auto tls = TlsContext::make(arguments.tls);
    if (!tls)
        return 1;
    Stats stats;
    StatusPage status(*content, stats);
    {
        const auto server =
            Server::make(arguments.server, *tls,
                         arguments.status ? static_cast<ContentSource &>(status) : *content, stats);
        if (!server)
            return 1;
        catch_signals(*server);
        std::cout << "packet protection: " << server->path_description() << '\n'
                  << "certificate key SHA-256: " << tls->public_key_fingerprint() << '\n';
        for (const auto &endpoint : server->endpoints())
            std::cout << "listening on " << endpoint->address().to_string() << '\n';
        std::cout << std::flush;
        server->run();
    }
    return write_stats(arguments.stats_file, stats) ? 0 : 1;
}
