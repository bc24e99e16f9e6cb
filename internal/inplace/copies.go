package inplace

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

const (
	copies = 4

	// block is what disks and page caches write at a time: no write of a half touches the other one.
	block = 4096
)

// ErrNoCopy says that a file holds no whole copy of its version: it is of another one, or damaged.
var ErrNoCopy = errors.New("none of its copies is whole")

// record is what a copy says, in a line of its own that is filled up with spaces.
type record struct {
	SHA256  string          `json:"sha256"` // of the whole line but for these digits
	Version int             `json:"version"`
	Seq     uint64          `json:"seq"` // the highest is the newest
	Body    json.RawMessage `json:"body"`
}

// frame is what a copy begins and ends with, so that the file is JSON.
func frame(version, i int) (begin, end string) {
	begin, end = ` `, ",\n"
	if i == 0 {
		begin = fmt.Sprintf(`{"version":%d,"copies":[`, version)
	}
	if i == copies-1 {
		end = "]}\n"
	}
	return begin + `{"sha256":"`, end
}

// blocks is n, or the next higher size that is whole blocks.
func blocks(n int) int { return (n + block - 1) / block * block }

// sizeOf is what a copy takes up at least, whatever its number.
func sizeOf(version int, body []byte) int {
	begin, end := frame(version, 0)
	return len(begin) + 2*sha256.Size + len(rest(version, math.MaxUint64, body)) + len(end) + 1
}

// rest is what follows upon the digits.
func rest(version int, seq uint64, body []byte) []byte {
	return fmt.Appendf(nil, `","version":%d,"seq":%d,"body":%s}`, version, seq, body)
}

// encode returns the copies from first on, up to last, of a file.
func encode(version, first, last, size int, seq uint64, body []byte) []byte {
	out := bytes.Repeat([]byte{' '}, (last-first)*size)
	for i := range last - first {
		line := out[i*size : (i+1)*size]
		begin, end := frame(version, first+i)
		copy(line, begin)
		sum := line[len(begin):][:2*sha256.Size]
		copy(line[len(begin)+len(sum):], rest(version, seq, body))
		copy(line[size-len(end):], end)
		hex.Encode(sum, sumOf(line, len(begin)))
	}
	return out
}

// sumOf is that of a line whose own digits begin at a place.
func sumOf(line []byte, digits int) []byte {
	h := sha256.New()
	h.Write(line[:digits])
	h.Write(line[digits+2*sha256.Size:])
	return h.Sum(nil)
}

// decode returns what copy i says, if it is whole.
func decode(line []byte, version, i int) (r record, ok bool) {
	begin, end := frame(version, i)
	if !bytes.HasPrefix(line, []byte(begin)) || !bytes.HasSuffix(line, []byte(end)) {
		return r, false
	}
	opens := len(begin) - len(`{"sha256":"`)
	if err := json.Unmarshal(line[opens:len(line)-len(end)], &r); err != nil {
		return r, false
	}
	return r, r.Version == version && r.SHA256 == hex.EncodeToString(sumOf(line, len(begin)))
}

// Read returns the newest value in the file at path. It is not durable before it was Put again.
func Read(path string, version int) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- the directory is the caller's own
	if err != nil {
		return nil, err
	}
	body, err := readFile(f, version)
	return body, errors.Join(err, f.Close())
}

func readFile(f *os.File, version int) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return read(f, info.Size(), version)
}

// read takes a copy that the disk does not give for a damaged one, as long as the other copy of its half is whole. Without
// that the half could be the newest. One that a power cut has torn is read without an error, and is not.
func read(from io.ReaderAt, size int64, version int) ([]byte, error) {
	if size == 0 || size%(copies*block) != 0 {
		return nil, ErrNoCopy
	}
	line := make([]byte, size/copies)
	var newest record
	var whole [2]bool
	var failed [2]error // by half, as whole
	for i := range copies {
		half := i / (copies / 2)
		if _, err := from.ReadAt(line, int64(i)*int64(len(line))); err != nil {
			failed[half] = err
			continue
		}
		r, ok := decode(line, version, i)
		whole[half] = whole[half] || ok
		switch {
		case !ok || r.Seq < newest.Seq:
		case r.Seq == newest.Seq && !bytes.Equal(r.Body, newest.Body):
			return nil, fmt.Errorf("two of its copies have the number %d, and differ", r.Seq)
		default:
			newest = r
		}
	}
	for half, err := range failed {
		if err != nil && !whole[half] {
			return nil, fmt.Errorf("it may be that the newest of its copies cannot be read: %w", err)
		}
	}
	if newest.Seq > 0 {
		return newest.Body, nil
	}
	return nil, ErrNoCopy
}
