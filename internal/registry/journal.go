package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/datasync"
)

// Layout of the journal, big-endian: two halves of the same size, each a row of frames that begin at multiples of a block. A
// frame is a header of magic (u32), generation of its half (u64), length of its body (u32) and CRC32C (u32) of where it stands,
// of the header so far and of the body; then the body, which leaves out the first four bytes of each further block: they are
// zero, so that nothing that clients wrote is ever where a frame could begin. The body is entries, one after the other: index and
// term (u64 each), type (u8), time (Unix seconds, u64; nanoseconds, u32), length of the seal (u8) and of the data (u32), seal, data.
const (
	// journalFile holds the newest entries of the log, those that are not in storeFile yet.
	journalFile = "raft.journal"

	journalMagic  = 0x53524a31 // SRJ1
	journalHeader = 4 + 8 + 4 + crc32.Size
	journalMore   = 4 // zeros at the beginning of a further block
	journalEntry  = 8 + 8 + 1 + 8 + 4 + 1 + 4

	// journalBlock is what disks and page caches write at a time: what is durable is not written again with the next frame.
	journalBlock = 4096

	// maxRoom is the largest frame whose room is kept for the next, here and in the page cache. Most have an entry of a few commands.
	maxRoom = 64 << 10

	// journalHalf makes a commit of bolt as rare as one in a thousand of the journal, and is read in some milliseconds at start.
	journalHalf = 4 << 20
)

// journal is the file. It is written in turns: one half while what the other holds is moved to bolt. A half begins anew with
// a higher generation, and only frames of its highest are valid. The file has its full size from the start, so that a write
// changes nothing but content, which one sync without the file's metadata makes durable.
type journal struct {
	file  journalDisk
	path  string
	size  int       // of a half
	half  int       // the one that is written
	at    int       // where its next frame goes
	used  [2]int    // what may be other than zero, from the beginning of each half
	gen   [2]uint64 // generation of each half
	first [2]uint64 // lowest index in each half, 0 if it has none

	body, frame []byte // room for the next frame
}

// journalDisk is what the journal needs of a file. Tests put one in between that is cut off.
type journalDisk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Datasync() error
	Uncache(at, n int64)
}

// openJournal opens dir/raft.journal, or makes it with two halves of so many bytes, and returns the entries of both, oldest
// first. They stay there until reset, before which nothing may be appended.
func openJournal(dir string, size int) (*journal, []*raft.Log, error) {
	path := filepath.Join(dir, journalFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("opening %s: %w; check the path, its owner and the disk", path, err)
	}
	j := &journal{file: datasync.File{File: f}, path: path, size: size, used: [2]int{size, size}}
	logs, err := j.read()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return j, logs, nil
}

// read takes a file that is shorter and holds nothing for one that a crash left half made.
func (j *journal) read() ([]*raft.Log, error) {
	raw := make([]byte, 2*j.size+1)
	n, err := j.file.ReadAt(raw, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("reading %s: %w; check the disk", j.path, err)
	case n < 2*j.size && zero(raw[:n]):
		return nil, j.create()
	case n != 2*j.size:
		return nil, j.corrupt("its end", fmt.Sprintf("it does not have the %d bytes that it is made with", 2*j.size))
	}
	var logs [2][]*raft.Log
	for half := range logs {
		part := raw[half*j.size : (half+1)*j.size]
		if zero(part) {
			j.used[half] = 0
		}
		if logs[half], err = j.readHalf(half, part); err != nil {
			return nil, err
		}
	}
	older := 0
	if j.gen[1] < j.gen[0] {
		older = 1
	}
	return append(logs[older], logs[1-older]...), nil
}

// create gives the file its size by bytes that are written: blocks that are only reserved cost a sync of metadata each.
func (j *journal) create() error {
	if err := j.erase(); err != nil {
		return fmt.Errorf("making %s of %d bytes: %w; check the space on the disk", j.path, 2*j.size, err)
	}
	return nil
}

// readHalf reads the frames of a half's highest generation. What is none is left out: what a crash cut off, and what earlier
// generations left. Whether an entry is missing between two others the entries' seals say.
func (j *journal) readHalf(half int, raw []byte) (logs []*raft.Log, err error) {
	for at := 0; at < len(raw); {
		gen, body := openFrame(raw[at:], half*j.size+at)
		if body == nil {
			at += journalBlock
			continue
		}
		if gen > j.gen[half] {
			j.gen[half], logs = gen, nil
		}
		if gen == j.gen[half] {
			if logs, err = appendEntries(logs, body); err != nil {
				return nil, j.corrupt(fmt.Sprintf("byte %d", half*j.size+at), err.Error())
			}
		}
		at += frameSize(len(body))
	}
	return logs, nil
}

func (j *journal) corrupt(where, detail string) error {
	return &CorruptError{What: "raft journal", File: j.path, Record: where, Detail: detail}
}

// frameSize is what a frame with a body of so many bytes takes up.
func frameSize(body int) int {
	const first, more = journalBlock - journalHeader, journalBlock - journalMore
	return journalBlock + (max(body-first, 0)+more-1)/more*journalBlock
}

// eachPart visits the parts of a frame that its body of so many bytes is in.
func eachPart(frame []byte, body int, visit func(part []byte)) {
	for at := journalHeader; body > 0; {
		n := min(body, journalBlock-at%journalBlock)
		visit(frame[at : at+n])
		body -= n
		at += n + journalMore
	}
}

// newFrame is the frame of a body that is to stand at a place of the file. It lies in room, if that is large enough.
func newFrame(room []byte, gen uint64, body []byte, place int) []byte {
	frame := slices.Grow(room[:0], frameSize(len(body)))[:frameSize(len(body))]
	clear(frame) // a frame before it may have been there
	binary.BigEndian.PutUint32(frame, journalMagic)
	binary.BigEndian.PutUint64(frame[4:], gen)
	binary.BigEndian.PutUint32(frame[12:], uint32(len(body)))
	binary.BigEndian.PutUint32(frame[16:], frameSum(frame, body, place))
	eachPart(frame, len(body), func(part []byte) { body = body[copy(part, body):] })
	return frame
}

// openFrame returns generation and body of the frame that raw begins with, which stands at a place of the file; nil if there is none.
func openFrame(raw []byte, place int) (gen uint64, body []byte) {
	size := int(binary.BigEndian.Uint32(raw[12:]))
	if binary.BigEndian.Uint32(raw) != journalMagic || size > len(raw) || frameSize(size) > len(raw) {
		return 0, nil
	}
	body = make([]byte, 0, size)
	eachPart(raw, size, func(part []byte) { body = append(body, part...) })
	if frameSum(raw, body, place) != binary.BigEndian.Uint32(raw[16:]) {
		return 0, nil
	}
	return binary.BigEndian.Uint64(raw[4:]), body
}

func frameSum(frame, body []byte, place int) uint32 {
	sum := crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(place)), castagnoli)
	sum = crc32.Update(sum, castagnoli, frame[:journalHeader-crc32.Size])
	return crc32.Update(sum, castagnoli, body)
}

// bodySize is that of a body with these entries.
func bodySize(logs []*raft.Log) (n int) {
	for _, l := range logs {
		n += journalEntry + len(l.Extensions) + len(l.Data)
	}
	return n
}

func appendEntry(b []byte, l *raft.Log) []byte {
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	b = binary.BigEndian.AppendUint64(b, uint64(l.AppendedAt.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(l.AppendedAt.Nanosecond()))
	b = append(b, byte(len(l.Extensions)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Data)))
	return append(append(b, l.Extensions...), l.Data...)
}

var errShortBody = errors.New("its entries are longer than it is")

// appendEntries decodes a body, and keeps it.
func appendEntries(logs []*raft.Log, body []byte) ([]*raft.Log, error) {
	for len(body) > 0 {
		if len(body) < journalEntry {
			return nil, errShortBody
		}
		data := journalEntry + int(body[29])
		end := data + int(binary.BigEndian.Uint32(body[30:]))
		if end > len(body) {
			return nil, errShortBody
		}
		logs = append(logs, &raft.Log{
			Index: binary.BigEndian.Uint64(body), Term: binary.BigEndian.Uint64(body[8:]), Type: raft.LogType(body[16]),
			AppendedAt: time.Unix(int64(binary.BigEndian.Uint64(body[17:])), int64(binary.BigEndian.Uint32(body[25:]))).UTC(),
			Extensions: body[journalEntry:data:data], Data: body[data:end:end],
		})
		body = body[end:]
	}
	return logs, nil
}

// room is whether the half that is written has room for so many bytes.
func (j *journal) room(size int) bool { return j.at+size <= j.size }

// turn begins the other half anew. All that it holds must be in bolt.
func (j *journal) turn() {
	j.half = 1 - j.half
	j.at, j.first[j.half] = 0, 0
	j.gen[j.half] = max(j.gen[0], j.gen[1]) + 1
}

// append writes entries as one frame, for which there must be room, and returns when they are durable.
func (j *journal) append(logs []*raft.Log) error {
	j.body = slices.Grow(j.body[:0], bodySize(logs))
	for _, l := range logs {
		j.body = appendEntry(j.body, l)
	}
	place := j.half*j.size + j.at
	frame := newFrame(j.frame, j.gen[j.half], j.body, place)
	j.frame = frame
	j.at += len(frame)
	j.used[j.half] = max(j.used[j.half], j.at)
	if j.first[j.half] == 0 {
		j.first[j.half] = logs[0].Index
	}
	err := j.write(frame, place)
	if len(frame) > maxRoom {
		j.body, j.frame = nil, nil
		j.file.Uncache(int64(place), int64(len(frame)))
	}
	return err
}

func (j *journal) write(b []byte, place int) error {
	_, err := j.file.WriteAt(b, int64(place))
	return j.sync(err)
}

// sync makes what was written durable, unless the writing failed.
func (j *journal) sync(err error) error {
	if err == nil {
		err = j.file.Datasync()
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", j.path, err)
	}
	return nil
}

// reset makes the journal forget what it holds, durably and not only by a higher generation: were the frame that says so
// damaged, those before it would be valid again.
func (j *journal) reset() error {
	if err := j.erase(); err != nil {
		return err
	}
	j.turn()
	j.first = [2]uint64{}
	return nil
}

// erase syncs also where it finds nothing but zeros: a process that died before it synced them may have written them, and a power cut would
// bring back what was there before.
func (j *journal) erase() error {
	for half, used := range j.used {
		if _, err := j.file.WriteAt(make([]byte, used), int64(half*j.size)); err != nil {
			return j.sync(err)
		}
	}
	if err := j.sync(nil); err != nil {
		return err
	}
	j.file.Uncache(0, int64(2*j.size))
	j.used = [2]int{}
	return nil
}

// holds is whether the file may have an entry up to an index.
func (j *journal) holds(upTo uint64) bool {
	for _, first := range j.first {
		if first != 0 && first <= upTo {
			return true
		}
	}
	return false
}
