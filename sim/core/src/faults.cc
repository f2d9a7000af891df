// SPDX-License-Identifier: GPL-2.0
//
// Fault injection. A fault is text: NAME[,key=value]...
#include "core.h"

#include <charconv>

namespace connectx {

namespace {

struct Parsed {
    std::string name;
    std::map<std::string, std::uint64_t> values;
};

bool parse_number(std::string_view text, std::uint64_t &value) {
    int base = 10;
    if (text.starts_with("0x")) {
        text.remove_prefix(2);
        base = 16;
    }
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    return ec == std::errc{} && end == text.data() + text.size() && !text.empty();
}

bool parse(std::string_view spec, const std::set<std::string> &known, Parsed &out,
           std::string &error) {
    bool first = true;
    while (!spec.empty()) {
        const auto comma = spec.find(',');
        const std::string_view word = spec.substr(0, comma);
        spec = comma == std::string_view::npos ? std::string_view{} : spec.substr(comma + 1);
        if (first) {
            out.name = word;
            first = false;
            continue;
        }
        const auto eq = word.find('=');
        const std::string key(word.substr(0, eq));
        std::uint64_t value = 0;
        if (!known.contains(key)) {
            error = "unknown key '" + key + "'";
            return false;
        }
        if (eq == std::string_view::npos || !parse_number(word.substr(eq + 1), value)) {
            error = "'" + key + "' wants a number";
            return false;
        }
        out.values[key] = value;
    }
    return true;
}

} // namespace

bool Faults::take(Armed &armed, std::uint32_t target) {
    if (armed.count == 0 || (armed.target && *armed.target != target))
        return false;
    --armed.count;
    return true;
}

std::optional<std::uint64_t> Faults::take_command_timeout(std::uint16_t opcode) {
    if (!take(command_timeout_, opcode))
        return std::nullopt;
    core_.log(LogLevel::kInfo, "fault: command %s is not answered", opcode_name(opcode));
    return command_timeout_.value;
}

std::optional<CommandStatus> Faults::take_command_failure(std::uint16_t opcode) {
    if (!take(command_fail_, opcode))
        return std::nullopt;
    return CommandStatus{static_cast<std::uint8_t>(command_fail_.value), command_fail_.extra};
}

Faults::InterruptFault Faults::on_interrupt(unsigned vector, std::uint64_t &delay_ns) {
    if (take(irq_lost_, vector))
        return InterruptFault::kLost;
    if (take(irq_late_, vector)) {
        delay_ns = irq_late_.value;
        return InterruptFault::kLate;
    }
    return InterruptFault::kNone;
}

std::optional<Syndrome> Faults::on_send(std::uint32_t sqn) {
    if (!take(sq_error_, sqn))
        return std::nullopt;
    return static_cast<Syndrome>(sq_error_.value);
}

std::optional<Syndrome> Faults::on_receive(std::uint32_t rqn) {
    if (!take(rq_error_, rqn))
        return std::nullopt;
    return static_cast<Syndrome>(rq_error_.value);
}

std::optional<CommandStatus> Faults::take_quic_sa_failure() {
    if (!take(quic_sa_fail_, 0))
        return std::nullopt;
    return CommandStatus{static_cast<std::uint8_t>(quic_sa_fail_.value), quic_sa_fail_.extra};
}

std::optional<std::uint64_t> Faults::take_quic_sa_delay() {
    if (!take(quic_sa_late_, 0))
        return std::nullopt;
    core_.log(LogLevel::kInfo, "fault: a QUIC SA is confirmed late");
    return quic_sa_late_.value;
}

bool Faults::inject(std::string_view spec, std::string &error) {
    static const std::set<std::string> kKeys{"opcode",   "vector", "queue", "count",   "status",
                                             "syndrome", "ms",     "rfr",   "severity"};
    Parsed p;
    if (!parse(spec, kKeys, p, error))
        return false;
    const auto value = [&p](const char *key, std::uint64_t otherwise) {
        auto it = p.values.find(key);
        return it == p.values.end() ? otherwise : it->second;
    };
    const auto target = [&p](const char *key) -> std::optional<std::uint32_t> {
        auto it = p.values.find(key);
        return it == p.values.end() ? std::nullopt
                                    : std::optional(static_cast<std::uint32_t>(it->second));
    };
    const std::uint64_t count = value("count", 1);
    const std::uint64_t ms = value("ms", 1000);
    if (ms > 3'600'000) {
        error = "'ms' is more than an hour";
        return false;
    }
    if (p.name == "command-timeout") {
        command_timeout_ = {target("opcode"), count, value("ms", 0) * 1'000'000, 0};
    } else if (p.name == "command-fail") {
        command_fail_ = {target("opcode"), count, value("status", MLX5_CMD_STAT_INT_ERR) & 0xff,
                         static_cast<std::uint32_t>(value("syndrome", 0xfa17))};
    } else if (p.name == "quic-sa-fail") {
        quic_sa_fail_ = {std::nullopt, count, value("status", MLX5_CMD_STAT_INT_ERR) & 0xff,
                         static_cast<std::uint32_t>(value("syndrome", 0xfa17))};
    } else if (p.name == "quic-sa-late") {
        quic_sa_late_ = {std::nullopt, count, value("ms", 0) * 1'000'000, 0};
    } else if (p.name == "interrupt-lost") {
        irq_lost_ = {target("vector"), count, 0, 0};
    } else if (p.name == "interrupt-late") {
        irq_late_ = {target("vector"), count, ms * 1'000'000, 0};
    } else if (p.name == "send-error") {
        sq_error_ = {target("queue"), count,
                     value("syndrome", static_cast<std::uint64_t>(Syndrome::kLocalProt)) & 0xff, 0};
    } else if (p.name == "receive-error") {
        rq_error_ = {target("queue"), count,
                     value("syndrome", static_cast<std::uint64_t>(Syndrome::kLocalProt)) & 0xff, 0};
    } else if (p.name == "link-flap") {
        core_.port.flap(ms * 1'000'000);
    } else if (p.name == "link-down") {
        core_.port.set_carrier(false);
    } else if (p.name == "link-up") {
        core_.port.set_carrier(true);
    } else if (p.name == "health") {
        core_.iseg.set_health(value("syndrome", MLX5_INITIAL_SEG_HEALTH_SYNDROME_FW_INTERNAL_ERR) &
                                  0xff,
                              0, value("rfr", 0) != 0, value("severity", 3));
    } else if (p.name == "health-stuck") {
        core_.iseg.freeze_health_counter(true);
    } else if (p.name == "reset") {
        core_.reset();
    } else if (p.name == "none") {
        command_timeout_ = command_fail_ = irq_lost_ = irq_late_ = sq_error_ = rq_error_ = {};
        quic_sa_fail_ = quic_sa_late_ = {};
        core_.commands.release_done();
        core_.iseg.set_health(0, 0, false, 0);
        core_.iseg.freeze_health_counter(false);
    } else {
        error = "unknown fault '" + p.name + "'";
        return false;
    }
    return true;
}

} // namespace connectx
