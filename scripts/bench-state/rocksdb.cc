// The reads of `cofferdam bench state`, of a RocksDB store: of each key its newest value at or below a height, asked for
// twice, as a guest asks for a length and then for the bytes. Prints the microseconds of such a pair, one round a line.
//
// usage: rocksdb DIRECTORY ROUNDS

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/table.h>

// As in supervisor/bench/src/state.rs.
constexpr uint32_t kKeys = 1000000, kKeysABlock = 100000, kReads = 200, kJobs = 500, kStride = 7919;

static std::string Key(uint32_t number) {
  std::string key = "......../a path as indexers have";
  uint64_t spread = uint64_t{number} * 0x9e3779b97f4a7c15;
  memcpy(key.data(), &spread, 8);
  return key;
}

// The key, and behind it the height so that newer versions come first.
static std::string Version(uint32_t number, uint32_t height) {
  std::string key = Key(number);
  uint32_t down = __builtin_bswap32(~height);
  key.append(reinterpret_cast<const char*>(&down), 4);
  return key;
}

static void Check(const rocksdb::Status& status) {
  if (!status.ok()) {
    fprintf(stderr, "rocksdb: %s\n", status.ToString().c_str());
    exit(1);
  }
}

static size_t Read(rocksdb::Iterator* iterator, const std::string& seek) {
  iterator->Seek(seek);
  if (!iterator->Valid() || iterator->key().size() != seek.size() || memcmp(iterator->key().data(), seek.data(), 32) != 0) {
    fprintf(stderr, "a key is missing\n");
    exit(1);
  }
  std::string value = iterator->value().ToString();
  return value.size();
}

int main(int count, char** arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: rocksdb DIRECTORY ROUNDS\n");
    return 2;
  }
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kNoCompression;
  options.prefix_extractor.reset(rocksdb::NewFixedPrefixTransform(32));
  rocksdb::BlockBasedTableOptions table;
  // Everything fits: what is measured is the way to it.
  table.block_cache = rocksdb::NewLRUCache(512 << 20);
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::DB* opened = nullptr;
  Check(rocksdb::DB::Open(options, arguments[1], &opened));
  std::unique_ptr<rocksdb::DB> db(opened);
  for (uint32_t number = 0; number < kKeys; ++number) {
    std::string value(32, '\0');
    for (int at = 0; at < 32; at += 4) memcpy(&value[at], &number, 4);
    Check(db->Put(rocksdb::WriteOptions(), Version(number, number / kKeysABlock), value));
  }
  Check(db->Flush(rocksdb::FlushOptions()));
  Check(db->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr));
  size_t bytes = 0;
  const uint32_t rounds = atoi(arguments[2]);
  for (uint32_t round = 0; round <= rounds; ++round) {
    std::vector<double> each;
    for (uint32_t job = 0; job < kJobs; ++job) {
      // A snapshot a job, as there.
      std::unique_ptr<rocksdb::Iterator> iterator(db->NewIterator(rocksdb::ReadOptions()));
      uint32_t number = (round * kJobs + job) * kReads * 13;
      auto started = std::chrono::steady_clock::now();
      for (uint32_t read = 0; read < kReads; ++read, number += kStride) {
        std::string seek = Version(number % kKeys, kKeys / kKeysABlock - 1);
        bytes += Read(iterator.get(), seek) + Read(iterator.get(), seek);
      }
      std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - started;
      each.push_back(took.count() / kReads);
    }
    std::sort(each.begin(), each.end());
    // The first round fills the cache.
    if (round > 0) printf("%.3f\n", each[each.size() / 2]);
  }
  return bytes == 0;
}
