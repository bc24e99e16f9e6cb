package registry

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolterrors "go.etcd.io/bbolt/errors"
)

// smallHalf is a half of a journal that has room for a few of the entries that tests append.
const smallHalf = 5 * journalBlock

// die closes the files of a store as the end of its process would: nothing is moved from the journal.
func die(t interface{ Fatal(...any) }, s *store) {
	if err := errors.Join(s.log.close(), s.mark.file.Close()); err != nil {
		t.Fatal(err)
	}
}

// diedStore is a store with a term and entries 1 to 20 whose process died: 11 to 20 are in the journal alone, two in a frame.
func diedStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, _ := mustOpenWith(t, dir, smallHalf)
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.StoreLogs(sampleLogs(1, 10))); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s, _ = mustOpenWith(t, dir, smallHalf)
	for i := uint64(11); i < 20; i += 2 {
		if err := s.StoreLogs(sampleLogs(i, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	die(t, s)
	return dir
}

// lastIn is the last entry that bolt has by itself.
func lastIn(t *testing.T, dir string) uint64 {
	t.Helper()
	b, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, storeFile), BoltOptions: boltOptions(false)})
	if err != nil {
		t.Fatal(err)
	}
	last, err := b.LastIndex()
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	return last
}

func wantEntries(t *testing.T, s *store, from, to uint64) {
	t.Helper()
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err1 != nil || err2 != nil || first != from || last != to {
		t.Fatalf("holds %d to %d (%v, %v), want %d to %d", first, last, err1, err2, from, to)
	}
	for i := from; i <= to; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || !sameLog(&l, sampleLog(i)) {
			t.Errorf("entry %d: %+v, %v", i, l, err)
		}
	}
}

// What a process leaves that dies is all found again, and after a stop in order bolt alone has all of it, so that a program
// of before the journal finds it.
func TestStoreFindsWhatTheJournalHolds(t *testing.T) {
	dir := diedStore(t)
	if last := lastIn(t, dir); last != 10 {
		t.Errorf("bolt has entries up to %d before the start", last)
	}
	s, _ := mustOpenWith(t, dir, smallHalf)
	wantEntries(t, s, 1, 20)
	if err := s.StoreLogs(sampleLogs(21, 22)); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, s, 1, 22)
	mustClose(t, s)
	if last := lastIn(t, dir); last != 22 {
		t.Errorf("bolt has entries up to %d after a stop in order", last)
	}
	if raw := readFile(t, filepath.Join(dir, journalFile)); len(raw) != 2*smallHalf || !zero(raw) {
		t.Errorf("the journal has %d bytes, or holds something", len(raw))
	}
	mustRemove(t, filepath.Join(dir, journalFile)) // as of the releases before it
	s, _ = mustOpenWith(t, dir, smallHalf)
	defer mustClose(t, s)
	wantEntries(t, s, 1, 22)
}

// Entries move to bolt whenever half of the journal is full, those that it is too small for directly, and are read meanwhile.
func TestStoreMovesEntriesToBolt(t *testing.T) {
	dir := t.TempDir()
	s, f := mustOpenWith(t, dir, smallHalf)
	if err := s.SetUint64([]byte(raftTermKey), 3); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 100; i++ {
		if err := s.StoreLogs(sampleLogs(i, i)); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			wantEntries(t, s, 1, i)
		}
	}
	if <-s.log.moved; len(s.log.held) == 0 || len(s.log.held) > 10 {
		t.Errorf("%d entries are in memory, of frames of which 10 fit", len(s.log.held))
	}
	large := &raft.Log{Index: 101, Term: 3, Data: bytes.Repeat([]byte("x"), smallHalf)}
	if err := s.StoreLogs([]*raft.Log{large}); err != nil || len(s.log.held) > 0 {
		t.Fatalf("%v, %d are in memory", err, len(s.log.held))
	}
	die(t, s)
	if len(f.errs) > 0 {
		t.Errorf("reported %v", f.errs)
	}
	s, _ = mustOpenWith(t, dir, smallHalf)
	defer mustClose(t, s)
	var got raft.Log
	if err := s.GetLog(101, &got); err != nil || !sameLog(&got, large) {
		t.Errorf("%v", err)
	}
	if err := s.DeleteRange(101, 101); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, s, 1, 100)
}

// Every byte of what the journal holds, changed: the start says that it is damage.
func TestStoreRefusesADamagedJournal(t *testing.T) {
	dir := diedStore(t)
	image := readTree(t, dir)
	whole := image[journalFile]
	frames := 0
	for place := 0; place < len(whole); place += journalBlock {
		_, body := openFrame(whole[place:place+journalBlock], place)
		if body == nil {
			continue
		}
		frames++
		for at := range journalHeader + len(body) {
			changed := bytes.Clone(whole)
			changed[place+at] ^= 0x21
			writeFile(t, filepath.Join(dir, journalFile), changed)
			_, err := openStoreWith(dir, smallHalf, func(error) {})
			wantCorrupt(t, err)
		}
	}
	if frames != 5 {
		t.Fatalf("%d frames", frames)
	}
	end := smallHalf + 4*journalBlock // the first half to be written is the second
	for name, change := range map[string]func(path string){
		"gone":  func(path string) { mustRemove(t, path) },
		"empty": func(path string) { writeFile(t, path, nil) },
		"of before": func(path string) {
			writeFile(t, path, append(bytes.Clone(whole[:end]), make([]byte, len(whole)-end)...))
		},
		"shorter": func(path string) { writeFile(t, path, whole[:len(whole)-1]) },
		"longer":  func(path string) { writeFile(t, path, append(bytes.Clone(whole), 0)) },
		"frames change": func(path string) {
			writeFile(t, path, append(bytes.Clone(whole[journalBlock:]), whole[:journalBlock]...))
		},
	} {
		writeTree(t, dir, image)
		change(filepath.Join(dir, journalFile))
		if _, err := openStoreWith(dir, smallHalf, func(error) {}); err == nil {
			t.Errorf("%s: it opens", name)
		} else {
			wantCorrupt(t, err)
		}
	}
	writeTree(t, dir, image)
	s, _ := mustOpenWith(t, dir, smallHalf) // nothing of that changed what is there
	defer mustClose(t, s)
	wantEntries(t, s, 1, 20)
}

// An entry that was moved and one with the same index in the journal are the same one.
func TestStoreRefusesAJournalOfAnotherLog(t *testing.T) {
	dir := diedStore(t)
	journal := readFile(t, filepath.Join(dir, journalFile))
	s, _ := mustOpenWith(t, dir, smallHalf)
	other := sampleLog(11)
	other.Data = []byte("another")
	if err := errors.Join(s.DeleteRange(11, 20), s.StoreLog(other)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	writeFile(t, filepath.Join(dir, journalFile), journal)
	_, err := openStoreWith(dir, smallHalf, func(error) {})
	wantCorrupt(t, err, "log index 11", journalFile)
}

// A disk that fails stops the server, also where nobody waits for what it was to do.
func TestStoreMoveThatFailsIsFatal(t *testing.T) {
	s, f := mustOpenWith(t, t.TempDir(), smallHalf)
	if err := s.inner.Close(); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 6; i++ { // the sixth turns
		if err := s.StoreLogs(sampleLogs(i, i)); err != nil {
			t.Fatal(err)
		}
	}
	<-s.log.moved
	if len(f.errs) != 1 || !errors.Is(f.errs[0], bolterrors.ErrDatabaseNotOpen) || !strings.Contains(f.errs[0].Error(), "moving entries") {
		t.Fatalf("reported %v", f.errs)
	}
	if err := s.StoreLogs(sampleLogs(7, 7)); !errors.Is(err, f.errs[0]) {
		t.Errorf("a store that failed takes writes: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Term and votes are in raft.db alone, and the journal may have all entries: that the file is gone, or an older copy, is noticed, also by
// a second start, which finds the file that the first one made.
func TestStoreRefusesTheJournalOfAnotherFile(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	if err := s.SetUint64([]byte(raftTermKey), 2); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	older := readFile(t, filepath.Join(dir, storeFile))
	s, _ = mustOpen(t, dir)
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.StoreLogs(sampleLogs(1, 20))); err != nil {
		t.Fatal(err)
	}
	die(t, s)
	image := readTree(t, dir)
	for name, change := range map[string]func(){
		"older":             func() { writeFile(t, filepath.Join(dir, storeFile), older) },
		"gone":              func() { mustRemove(t, filepath.Join(dir, storeFile)) },
		"gone, as the mark": func() { mustRemove(t, filepath.Join(dir, storeFile)); mustRemove(t, filepath.Join(dir, tailFile)) },
	} {
		writeTree(t, dir, image)
		change()
		for range 3 {
			if _, err := openStore(dir, func(error) {}); err == nil {
				t.Fatalf("%s: it opens", name)
			} else {
				wantCorrupt(t, err)
			}
		}
	}
}

// The mark is synced with the first entries of the journal, so that a power cut does not take the only word of a journal that is gone.
func TestStoreMissesAJournalAfterAPowerCut(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpenWith(t, dir, smallHalf)
	if err := s.SetUint64([]byte(raftTermKey), 3); err != nil {
		t.Fatal(err)
	}
	syncs := &countedSyncs{tailDisk: s.mark.file}
	s.mark.file = syncs
	for i := uint64(1); i <= 12; i++ { // halves begin with 1, 6 and 11
		before := syncs.n
		if err := s.StoreLogs(sampleLogs(i, i)); err != nil {
			t.Fatal(err)
		}
		if want := i%5 == 1; want != (syncs.n > before) {
			t.Errorf("entry %d: the mark was synced %d times", i, syncs.n-before)
		}
	}
	die(t, s)
	mustRemove(t, filepath.Join(dir, journalFile))
	writeFile(t, filepath.Join(dir, tailFile), syncs.synced) // what a power cut may leave of it
	_, err := openStoreWith(dir, smallHalf, func(error) {})
	wantCorrupt(t, err, tailFile)
}

// asked keeps what is asked of a file.
type asked struct {
	journalDisk
	calls []string
}

func (a *asked) WriteAt(b []byte, at int64) (int, error) {
	a.calls = append(a.calls, "write")
	return a.journalDisk.WriteAt(b, at)
}

func (a *asked) Datasync() error {
	a.calls = append(a.calls, "sync")
	return a.journalDisk.Datasync()
}

func (a *asked) Uncache(at, n int64) {
	a.calls = append(a.calls, "uncache")
	a.journalDisk.Uncache(at, n)
}

// The kernel forgets what came in large pieces once it is synced, and keeps what comes by the block.
func TestJournalUncaches(t *testing.T) {
	s, _ := mustOpenWith(t, t.TempDir(), journalHalf)
	defer mustClose(t, s)
	file := &asked{journalDisk: s.log.journal.file}
	s.log.journal.file = file
	for _, c := range []struct {
		what string
		do   func() error
		want string
	}{
		{"a small entry", func() error { return s.StoreLog(&raft.Log{Index: 1, Term: 1}) }, "write sync"},
		{"a large one", func() error { return s.StoreLog(&raft.Log{Index: 2, Term: 1, Data: make([]byte, maxRoom)}) }, "write sync uncache"},
		{"both halves are erased", s.log.flush, "write write sync uncache"},
	} {
		file.calls = nil
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got := strings.Join(file.calls, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Zeros that the journal finds may not be on the disk yet: it syncs them before it relies on them.
func TestJournalSyncsZerosThatItFinds(t *testing.T) {
	s, _ := mustOpenWith(t, t.TempDir(), smallHalf)
	defer mustClose(t, s)
	synced := &cutDisk{journalDisk: s.log.journal.file, left: 5}
	s.log.journal.file = synced
	if s.log.journal.used != [2]int{} {
		t.Fatal("it holds something")
	}
	if err := s.log.flush(); err != nil || synced.left != 4 {
		t.Errorf("%v, %d syncs left of 5", err, synced.left)
	}
}

// A start that finds entries of which it is not sure that they are on the disk puts them there before the mark speaks of them.
func TestStoreMarksWhatIsOnTheDisk(t *testing.T) {
	dir := diedStore(t)
	writeFile(t, filepath.Join(dir, tailFile), nil) // as a power cut before this one may leave it
	s, _ := openUnaudited(t, dir, smallHalf)
	s.existed = true
	defer die(t, s)
	found, err := s.log.journal.read()
	if err != nil {
		t.Fatal(err)
	}
	var indexes []uint64
	for i := uint64(1); i <= 10; i++ {
		indexes = append(indexes, i)
	}
	more, err := s.recoverJournal(found, 1, 10)
	if err != nil || len(more) != 10 {
		t.Fatal(more, err)
	}
	if err := s.auditChain(append(indexes, more...)); err != nil || s.last.index != 20 || s.mark.at != (link{}) {
		t.Errorf("%v; the log ends at %v, the mark says %v before anything was moved", err, s.last, s.mark.at)
	}
}

// What a half held before it began anew may be seen again after a crash that erased its first frame only. Its entries are in bolt, or were removed.
func TestStoreKnowsWhatWasRemoved(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpenWith(t, dir, smallHalf)
	if err := s.SetUint64([]byte(raftTermKey), 3); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 11; i++ { // 5 in a half: the first has 11, and behind it what was 2 to 5
		if err := s.StoreLogs(sampleLogs(i, i)); err != nil {
			t.Fatal(err)
		}
	}
	if <-s.log.moved; s.log.journal.holds(5) {
		t.Fatal("the half has not begun anew")
	}
	if err := s.DeleteRange(1, 5); err != nil {
		t.Fatal(err)
	}
	cut := s.log.journal.half * smallHalf
	if err := s.log.move(s.log.held); err != nil { // the flush of a stop in order, whose process dies as it begins to erase
		t.Fatal(err)
	}
	if err := s.log.journal.write(make([]byte, journalBlock), cut); err != nil {
		t.Fatal(err)
	}
	die(t, s)
	s, _ = mustOpenWith(t, dir, smallHalf)
	defer mustClose(t, s)
	wantEntries(t, s, 6, 11)
}

// Readers see every entry that is there, and never an empty log, while others are appended, moved and removed.
func TestStoreReadsWhileEntriesMove(t *testing.T) {
	s, _ := mustOpenWith(t, t.TempDir(), smallHalf)
	defer mustClose(t, s)
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.StoreLogs(sampleLogs(1, 3))); err != nil {
		t.Fatal(err)
	}
	var stored, gone atomic.Uint64
	stored.Store(3)
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				last := stored.Load()
				first, err1 := s.FirstIndex()
				end, err2 := s.LastIndex()
				if err1 != nil || err2 != nil || first == 0 || end < last {
					t.Errorf("holds %d to %d (%v, %v), %d were stored", first, end, err1, err2, last)
					return
				}
				var l raft.Log
				if err := s.GetLog(last, &l); err != nil && last > gone.Load() || err == nil && !sameLog(&l, sampleLog(last)) {
					t.Errorf("entry %d: %+v, %v", last, l, err)
					return
				}
			}
		})
	}
	for i := uint64(4); i < 400; i++ {
		if err := s.StoreLogs(sampleLogs(i, i)); err != nil {
			t.Fatal(err)
		}
		stored.Store(i)
		if i%3 > 0 {
			continue
		}
		from, to := gone.Load()+1, i-1-i%7%3
		gone.Store(to) // or soon
		if err := s.DeleteRange(from, to); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing of an entry stands where a frame may begin, whatever a client wrote.
func TestJournalFramesBeginWhereTheyWereWritten(t *testing.T) {
	for body := range 4 * journalBlock {
		frame := newFrame(bytes.Repeat([]byte{0xff}, 5000), 7, bytes.Repeat([]byte("SRJ1"), body)[:body], 0)
		if len(frame)%journalBlock != 0 || len(frame) != frameSize(body) {
			t.Fatalf("a body of %d bytes has a frame of %d", body, len(frame))
		}
		for at := journalBlock; at < len(frame); at += journalBlock {
			if !zero(frame[at : at+journalMore]) {
				t.Fatalf("a body of %d bytes has %x at byte %d", body, frame[at:at+journalMore], at)
			}
		}
		if gen, got := openFrame(frame, 0); gen != 7 || len(got) != body {
			t.Fatalf("a body of %d bytes comes back with %d, of generation %d", body, len(got), gen)
		}
	}
}

// countedSyncs counts the syncs of a mark.
type countedSyncs struct {
	tailDisk
	n      int
	synced []byte // by the last of them
}

func (c *countedSyncs) Sync() error {
	c.n++
	c.synced = make([]byte, tailSize)
	_, err := c.ReadAt(c.synced, 0)
	return errors.Join(err, c.tailDisk.Sync())
}
