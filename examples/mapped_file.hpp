// SPDX-License-Identifier: MIT
//
// A file in memory, for sending it without a read() for each piece. A mapping has one trap: who
// touches a page that the file has no more of gets SIGBUS. So populate() asks first; for a file
// that is cut in the moment between, a signal handler puts a page of zeros there.
#ifndef QUIC_SERVER_MAPPED_FILE_HPP
#define QUIC_SERVER_MAPPED_FILE_HPP

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace quic_server {

class MappedFile {
  public:
    // The first @length bytes of @fd, which may be closed afterwards. Nothing: errno says why.
    static std::optional<MappedFile> map(int fd, std::size_t length);
    ~MappedFile();
    MappedFile(MappedFile &&other) noexcept;
    MappedFile &operator=(MappedFile &&) = delete;
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;

    std::span<const std::uint8_t> bytes() const { return bytes_; }
    // Brings @length bytes from @offset on into memory. False: the file has become shorter, or the
    // disk fails.
    bool populate(std::size_t offset, std::size_t length);

  private:
    explicit MappedFile(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
    std::span<const std::uint8_t> bytes_;
};

} // namespace quic_server

#endif
