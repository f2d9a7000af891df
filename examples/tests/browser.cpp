// SPDX-License-Identifier: GPL-2.0
//
// quic-browser: lets headless Chromium load a page over HTTP/3, by way of its DevTools protocol,
// and tells what came of it.
//
// usage: quic-browser --url URL --key-hash HASH --download PATH --folder FOLDER [--chromium
// PROGRAM]
//   --url       https://HOST:PORT/... of the example server's status page; QUIC is forced on for it
//   --key-hash  SHA-256 of the server's public key in base64, as the server prints it
//   --download  path on the server that the page is to download
//   --folder    gets screenshot.png, netlog.json and the browser's profile
// Prints one JSON object: what the page says of itself, each request as the network stack saw it,
// and what the net log holds. Exit status: 0 when the page was loaded and could be asked, whatever
// it said; 1 when not; 2 for wrong usage.
#include <nlohmann/json.hpp>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

using Json = nlohmann::ordered_json;

// Decides only how late a failure is told.
constexpr std::chrono::seconds kPatience{420};

[[noreturn]] void throw_errno(const std::string &what) {
    throw std::runtime_error(what + ": " + std::strerror(errno));
}

struct Arguments {
    std::string url;
    std::string key_hash;
    std::string download;
    std::filesystem::path folder;
    std::string chromium = "chromium";

    std::string origin() const { // HOST:PORT
        const auto start = url.find("://") + 3;
        return url.substr(start, url.find('/', start) - start);
    }
};

// Chromium with its DevTools at a pair of pipes: JSON messages, each with a zero byte behind it.
class Browser {
  public:
    explicit Browser(const Arguments &arguments);
    ~Browser();
    Browser(const Browser &) = delete;
    Browser &operator=(const Browser &) = delete;

    using EventHandler = std::function<void(const std::string &method, const Json &parameters)>;
    // Called for each event while somebody waits for something else.
    EventHandler on_event;

    // Sends a command and waits for its result. Throws when the browser refuses.
    Json call(const std::string &method, Json parameters = Json::object());
    // Waits until an event has made @condition true.
    void wait_until(const std::function<bool()> &condition, const char *what);
    // Commands go to this target from now on.
    void use_session(std::string session) { session_ = std::move(session); }
    // Closes it and waits for its end, when the net log is complete.
    void close();

  private:
    Json read_message();

    pid_t pid_ = -1;
    int to_browser_ = -1;
    int from_browser_ = -1;
    std::string received_;
    std::string session_;
    int next_id_ = 1;
    std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::now() + kPatience;
};

Browser::Browser(const Arguments &arguments) {
    const std::string folder = arguments.folder.string();
    const std::vector<std::string> words = {
        arguments.chromium,
        "--headless",
        "--remote-debugging-pipe",
        "--no-sandbox", // there is none for root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--user-data-dir=" + folder + "/profile",
        "--origin-to-force-quic-on=" + arguments.origin(),
        "--ignore-certificate-errors-spki-list=" + arguments.key_hash,
        "--log-net-log=" + folder + "/netlog.json",
        "about:blank",
    };
    std::array<int, 2> commands{};
    std::array<int, 2> answers{};
    if (pipe2(commands.data(), O_CLOEXEC) != 0 || pipe2(answers.data(), O_CLOEXEC) != 0)
        throw_errno("pipe");
    std::vector<char *> argv;
    for (const std::string &word : words)
        argv.push_back(const_cast<char *>(word.c_str())); // NOLINT: execvp() changes nothing
    argv.push_back(nullptr);

    pid_ = fork();
    if (pid_ < 0)
        throw_errno("fork");
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        // Out of the way of 3 and 4 first, where the browser looks for them.
        const int in = fcntl(commands[0], F_DUPFD, 10);
        const int out = fcntl(answers[1], F_DUPFD, 10);
        const int log =
            open((folder + "/chromium.log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (in < 0 || out < 0 || log < 0 || dup2(in, 3) < 0 || dup2(out, 4) < 0 ||
            dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
            _exit(126);
        ::close(in);
        ::close(out);
        ::close(log);
        execvp(argv[0], argv.data());
        _exit(127);
    }
    ::close(commands[0]);
    ::close(answers[1]);
    to_browser_ = commands[1];
    from_browser_ = answers[0];
}

Browser::~Browser() {
    ::close(to_browser_);
    ::close(from_browser_);
    if (pid_ > 0) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
}

Json Browser::read_message() {
    for (;;) {
        if (const auto end = received_.find('\0'); end != std::string::npos) {
            const std::string text = received_.substr(0, end);
            received_.erase(0, end + 1);
            return Json::parse(text);
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline_ - std::chrono::steady_clock::now());
        pollfd readable{from_browser_, POLLIN, 0};
        if (left.count() <= 0 || poll(&readable, 1, static_cast<int>(left.count())) <= 0)
            throw std::runtime_error("the browser says no more");
        std::array<char, 65536> buffer{};
        const ssize_t n = read(from_browser_, buffer.data(), buffer.size());
        if (n <= 0)
            throw std::runtime_error("the browser has ended; see chromium.log");
        received_.append(buffer.data(), static_cast<std::size_t>(n));
    }
}

Json Browser::call(const std::string &method, Json parameters) {
    const int id = next_id_++;
    Json request = {{"id", id}, {"method", method}, {"params", std::move(parameters)}};
    if (!session_.empty())
        request["sessionId"] = session_;
    const std::string text = request.dump();
    // With the zero byte.
    for (std::size_t done = 0; done <= text.size();) {
        const ssize_t n = write(to_browser_, text.c_str() + done, text.size() + 1 - done);
        if (n < 0)
            throw_errno("the browser does not listen");
        done += static_cast<std::size_t>(n);
    }
    for (;;) {
        Json message = read_message();
        if (message.contains("method")) {
            if (on_event)
                on_event(message["method"], message["params"]);
        } else if (message.value("id", 0) == id) {
            if (message.contains("error"))
                throw std::runtime_error(method + ": " + message["error"].dump());
            return message["result"];
        }
    }
}

void Browser::wait_until(const std::function<bool()> &condition, const char *what) {
    while (!condition()) {
        Json message;
        try {
            message = read_message();
        } catch (const std::exception &error) {
            throw std::runtime_error(std::string("waiting for ") + what + ": " + error.what());
        }
        if (message.contains("method") && on_event)
            on_event(message["method"], message["params"]);
    }
}

void Browser::close() {
    session_.clear();
    call("Browser.close");
    if (waitpid(pid_, nullptr, 0) != pid_)
        throw_errno("waitpid");
    pid_ = -1;
}

// --- what is looked at
// ----------------------------------------------------------------------------

// Requests as the browser's network stack reports them.
class Requests {
  public:
    void on_event(const std::string &method, const Json &parameters) {
        if (method == "Page.loadEventFired")
            loaded_ = true;
        if (!method.starts_with("Network.") || !parameters.contains("requestId"))
            return;
        Json &request = by_id_[parameters["requestId"]];
        if (method == "Network.requestWillBeSent") {
            request["url"] = parameters["request"]["url"];
            request["finished"] = false;
        } else if (method == "Network.responseReceived") {
            const Json &response = parameters["response"];
            request["status"] = response["status"];
            request["protocol"] = response.value("protocol", "");
            request["type"] = response.value("mimeType", "");
        } else if (method == "Network.loadingFinished") {
            request["finished"] = true;
            request["bytes"] = parameters["encodedDataLength"];
        } else if (method == "Network.loadingFailed") {
            request["failed"] = parameters["errorText"];
        }
    }
    bool loaded() const { return loaded_; }
    Json list() const {
        Json list = Json::array();
        for (const auto &[id, request] : by_id_)
            if (request.contains("url") && request["url"].get<std::string>().starts_with("http"))
                list.push_back(request);
        return list;
    }

  private:
    std::map<std::string, Json> by_id_;
    bool loaded_ = false;
};

// Runs @expression in the page; promises are waited for.
Json evaluate(Browser &browser, const std::string &expression) {
    const Json result =
        browser.call("Runtime.evaluate",
                     {{"expression", expression}, {"awaitPromise", true}, {"returnByValue", true}});
    if (result.contains("exceptionDetails"))
        throw std::runtime_error("in the page: " + result["exceptionDetails"].dump());
    return result["result"].contains("value") ? result["result"]["value"] : Json();
}

std::string decode_base64(std::string_view text) {
    std::string bytes;
    unsigned buffer = 0;
    int bits = 0;
    for (const char c : text) {
        static constexpr std::string_view kDigits =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const auto digit = kDigits.find(c);
        if (digit == std::string_view::npos)
            continue; // padding
        buffer = buffer << 6 | static_cast<unsigned>(digit);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            bytes += static_cast<char>(buffer >> bits & 0xff);
        }
    }
    return bytes;
}

// How often each kind of event is in Chromium's own log, and what it says of QUIC sessions.
Json read_net_log(const std::filesystem::path &file) {
    std::ifstream in(file);
    const Json log = Json::parse(in);
    std::map<int, std::string> names;
    for (const auto &[name, number] : log["constants"]["logEventTypes"].items())
        names[number.get<int>()] = name;

    std::map<std::string, std::uint64_t> counts;
    Json sessions = Json::array();
    std::uint64_t received = 0;
    for (const Json &event : log["events"]) {
        const std::string &name = names[event["type"].get<int>()];
        ++counts[name];
        if (!event.contains("params"))
            continue;
        const Json &parameters = event["params"];
        if (name == "QUIC_SESSION" && parameters.contains("host"))
            sessions.push_back(parameters);
        if (name == "QUIC_SESSION_PACKET_RECEIVED")
            received += parameters.value("size", std::uint64_t{0});
    }
    Json selected = Json::object();
    for (const auto &[name, count] : counts)
        for (const char *prefix : {"QUIC_", "HTTP3_", "HTTP2_", "TCP_CONNECT", "SSL_CONNECT",
                                   "CERT_", "HTTP_TRANSACTION_QUIC", "UDP_"})
            if (name.starts_with(prefix))
                selected[name] = count;
    return {{"sessions", sessions}, {"bytes_received", received}, {"events", selected}};
}

void run(const Arguments &arguments) {
    Browser browser(arguments);
    Requests requests;
    browser.on_event = [&](const std::string &method, const Json &parameters) {
        requests.on_event(method, parameters);
    };
    const Json version = browser.call("Browser.getVersion");
    const Json target = browser.call("Target.createTarget", {{"url", "about:blank"}});
    browser.use_session(browser.call("Target.attachToTarget", {{"targetId", target["targetId"]},
                                                               {"flatten", true}})["sessionId"]);
    browser.call("Page.enable");
    browser.call("Network.enable");
    browser.call("Emulation.setDeviceMetricsOverride",
                 {{"width", 1280}, {"height", 1400}, {"deviceScaleFactor", 1}, {"mobile", false}});
    const Json navigated = browser.call("Page.navigate", {{"url", arguments.url}});
    if (navigated.contains("errorText"))
        throw std::runtime_error(arguments.url + ": " + navigated["errorText"].get<std::string>());
    browser.wait_until([&] { return requests.loaded(); }, "the page");

    Json report;
    report["browser"] = version["product"];
    report["download"] = evaluate(browser, "download(" + Json(arguments.download).dump() + ")");
    // Two more samples, so that the plot has what came of the download.
    report["page"] = evaluate(browser, R"((async () => {
        for (const goal = samples.length + 2; samples.length < goal;)
            await new Promise((resolve) => setTimeout(resolve, 100));
        return {
            title: document.title,
            protocol: byId("protocol").textContent,
            images: Array.from(document.images,
                               (i) => ({src: i.getAttribute("src"), complete: i.complete, width: i.naturalWidth})),
            samples: samples.length,
            failed_polls: failures,
            peaks: PATHS.map((_, p) => Math.max(...samples.slice(1).map((_, i) => Math.round(rate(i + 1, p))))),
            plotted: Array.from(document.querySelectorAll("#plot polyline"),
                                (line) => line.getAttribute("points").split(" ").length),
            rows: Array.from(document.querySelectorAll("#paths tr"), (row) => row.innerText.split("\t")),
            sadb: Array.from(document.querySelectorAll("#sadb tr"), (row) => row.innerText.split("\t")),
            result: byId("result").innerText,
            foreign: performance.getEntriesByType("resource").map((e) => e.name)
                .filter((name) => !name.startsWith(location.origin)),
            counters,
        };
    })())");
    const Json screenshot = browser.call("Page.captureScreenshot", {{"format", "png"}});
    std::ofstream png(arguments.folder / "screenshot.png", std::ios::binary);
    png << decode_base64(screenshot["data"].get<std::string>());
    png.close();
    if (!png)
        throw std::runtime_error("screenshot.png cannot be written");
    report["requests"] = requests.list();
    browser.close();
    report["net_log"] = read_net_log(arguments.folder / "netlog.json");
    std::printf("%s\n", report.dump(2).c_str());
}

} // namespace

int main(int argc, char **argv) {
    Arguments arguments;
    bool known = argc % 2 == 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view option = argv[i];
        if (option == "--url")
            arguments.url = argv[i + 1];
        else if (option == "--key-hash")
            arguments.key_hash = argv[i + 1];
        else if (option == "--download")
            arguments.download = argv[i + 1];
        else if (option == "--folder")
            arguments.folder = argv[i + 1];
        else if (option == "--chromium")
            arguments.chromium = argv[i + 1];
        else
            known = false;
    }
    if (!known || !arguments.url.starts_with("https://") || arguments.key_hash.empty() ||
        arguments.download.empty() || arguments.folder.empty()) {
        std::fprintf(stderr, "usage: quic-browser --url URL --key-hash HASH --download PATH "
                             "--folder FOLDER [--chromium PROGRAM]\n");
        return 2;
    }
    std::signal(SIGPIPE, SIG_IGN);
    try {
        run(arguments);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "quic-browser: %s\n", error.what());
        return 1;
    }
}
