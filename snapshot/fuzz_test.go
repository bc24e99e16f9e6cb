package snapshot

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/scope-registry/scope-registry/internal/pb"
)

// fuzzMemory is what reading may allocate for each byte that arrived, and the
// fixed part: the buffers and what the runtime itself needs. A decoded message
// is larger than its encoding, by far less than this factor.
const (
	fuzzMemoryPerByte = 512
	fuzzMemoryFixed   = 1 << 20
)

func FuzzReader(f *testing.F) {
	good := encode(f, node("a", "a:1"), scopeOf([]byte{0, 0xff}, 7))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(bytes.Clone(good[:headerSize]), 0x00, 0x3f, 0xff, 0xff)) // 4 MiB promised, none there
	f.Add(encode(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		records, err := decode(data)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > fuzzMemoryFixed+fuzzMemoryPerByte*uint64(len(data)) {
			t.Fatalf("%d bytes of input made the reader allocate %d", len(data), used)
		}
		if err != nil {
			return
		}
		var again []*pb.Record
		if again, err = decode(encode(t, records...)); err != nil || len(again) != len(records) {
			t.Fatalf("what was read does not survive writing: %d of %d records, %v", len(again), len(records), err)
		}
	})
}
