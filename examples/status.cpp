// SPDX-License-Identifier: MIT
#include "status.hpp"

#include "connection.hpp" // now_ns()
#include "kernel_view.hpp"
#include "status_assets.hpp"

#include <nlohmann/json.hpp>

namespace quic_server {

namespace {

constexpr std::string_view kPrefix = "/status/";
constexpr std::uint64_t kFreshNs = 250'000'000;

Response make_response(std::string_view content_type, std::string text) {
    Response response;
    response.content_type = content_type;
    response.body = make_text_body(std::move(text));
    return response;
}

} // namespace

Response StatusPage::get(std::string_view path) {
    const std::string_view name = path.substr(0, path.find_first_of("?#"));
    if (!name.starts_with(kPrefix))
        return rest_.get(path);
    const std::string_view asset = name.substr(kPrefix.size());
    if (asset == "counters.json")
        return make_response("application/json", counters());
    if (asset.empty() || asset == "index.html")
        return make_response("text/html; charset=utf-8", kStatusHtml);
    if (asset == "status.js")
        return make_response("text/javascript; charset=utf-8", kStatusScript);
    if (asset == "path.svg")
        return make_response("image/svg+xml", kStatusPathImage);
    if (asset == "icon.svg")
        return make_response("image/svg+xml", kStatusIconImage);
    Response response = make_response("text/plain; charset=utf-8", "Not found\n");
    response.status = 404;
    return response;
}

const std::string &StatusPage::counters() {
    const std::uint64_t now = now_ns();
    if (!counters_.empty() && now - counters_age_ns_ < kFreshNs)
        return counters_;

    const KernelView view = read_kernel_view();
    auto devices = nlohmann::ordered_json::array();
    for (const OffloadDevice &device : view.devices)
        devices.push_back({{"name", device.name},
                           {"enabled", device.enabled},
                           {"sa_count", device.sa_count},
                           {"sa_max", device.sa_max},
                           {"counters", device.counters}});
    const nlohmann::ordered_json json = {
        {"time_ms", now / 1'000'000},
        {"server", nlohmann::ordered_json::parse(stats_.to_json())},
        {"kernel", view.counters},
        {"devices", devices},
    };
    counters_ = json.dump() + '\n';
    counters_age_ns_ = now;
    return counters_;
}

} // namespace quic_server
