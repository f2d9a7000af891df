// SPDX-License-Identifier: MIT
#include "stats.hpp"

#include <cstring>
#include <nlohmann/json.hpp>

namespace quic_server {

namespace {

using Json = nlohmann::ordered_json;

Json to_json(const PathCounters &path) {
    return {{"packets", path.packets},
            {"bytes", path.bytes},
            {"sends", path.sends},
            {"gso_sends", path.gso_sends},
            {"gso_max_packets", path.gso_max_packets}};
}

Json by_errno(const std::map<int, std::uint64_t> &counts) {
    Json json = Json::object();
    for (const auto &[error_number, count] : counts) {
        const char *name = strerrorname_np(error_number);
        json[name ? name : std::to_string(error_number)] = count;
    }
    return json;
}

} // namespace

std::string Stats::to_json() const {
    Json status = Json::object();
    for (const auto &[code, count] : responses)
        status[std::to_string(code)] = count;

    const Json json = {
        {"send",
         {{"kernel", quic_server::to_json(kernel)},
          {"user", quic_server::to_json(user)},
          {"coalesced_packets", coalesced},
          {"long_header_datagrams", long_header_datagrams},
          {"datagrams", datagrams_sent},
          {"bytes", bytes_sent},
          {"dropped", datagrams_dropped},
          {"blocked", sends_blocked},
          {"stepped_back_packets", stepped_back},
          {"errors", by_errno(send_errors)}}},
        {"zerocopy",
         {{"sends", zerocopy_sends},
          {"completions", zerocopy_completions},
          {"copied", zerocopy_copied}}},
        {"keys",
         {{"sas_installed", sas_installed},
          {"sas_deleted", sas_deleted},
          {"sa_install_errors", by_errno(sa_install_errors)},
          {"updates_by_us", key_updates_by_us},
          {"updates_by_peer", key_updates_by_peer}}},
        {"receive",
         {{"datagrams", datagrams_received},
          {"bytes", bytes_received},
          {"ignored", datagrams_ignored},
          {"ecn_ect", ecn_ect_received},
          {"ecn_ce", ecn_ce_received}}},
        {"connections",
         {{"accepted", connections},
          {"closed", connections_closed},
          {"failed", connections_failed},
          {"handshakes", handshakes},
          {"kernel", connections_kernel},
          {"user", connections_user},
          {"peak", connections_peak},
          {"path_changes", path_changes},
          {"retries", retries},
          {"version_negotiations", version_negotiations},
          {"stateless_resets", stateless_resets},
          {"ciphers", ciphers}}},
        {"http",
         {{"requests", requests},
          {"responses", status},
          {"body_bytes_sent", body_bytes_sent},
          {"body_bytes_received", body_bytes_received}}},
    };
    return json.dump(2) + '\n';
}

} // namespace quic_server
