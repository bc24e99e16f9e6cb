package registry

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
)

// A damaged newest snapshot is set aside, and the state is the same from the one before: whatever byte of it is changed.
func TestDamagedNewestSnapshot(t *testing.T) {
	for _, name := range []string{metaName, stateName, sumsName} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			populated(t, dir, 120, []uint64{40, 80, 100}, 60)
			want := mustRebuild(t, dir)
			newest := snapshotDirs(t, dir)[0]
			if !strings.HasPrefix(filepath.Base(newest), "2-100-") {
				t.Fatalf("the newest is %s", newest)
			}
			info, err := os.Stat(filepath.Join(newest, name))
			if err != nil {
				t.Fatal(err)
			}
			flipByte(t, filepath.Join(newest, name), info.Size()/2)
			if _, err := verifySnapshot(newest); err == nil {
				t.Fatal("the damage was not found")
			}
			if got := mustRebuild(t, dir); got != want {
				t.Errorf("from the older snapshot: %s\nwant %s", got, want)
			}
			if _, err := os.Stat(filepath.Join(dir, damagedDir, filepath.Base(newest))); err != nil {
				t.Errorf("it was not set aside: %v", err)
			}
			if got := mustRebuild(t, dir); got != want {
				t.Errorf("at the next start: %s\nwant %s", got, want)
			}
		})
	}
}

// Where the log does not reach the older snapshot the server does not start, and touches nothing.
func TestSnapshotsThatTheLogDoesNotReach(t *testing.T) {
	damage := func(n int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for i, path := range snapshotDirs(t, dir) {
				if i < n {
					flipByte(t, filepath.Join(path, stateName), 20)
				}
			}
		}
	}
	for name, tc := range map[string]struct {
		at   []uint64
		trim uint64
		do   func(t *testing.T, dir string)
		says []string
	}{
		"gap after the older one": {[]uint64{40, 99}, 60, damage(1), []string{"log index 41", "index 40", "61 to 121", "CRC"}},
		"no other one":            {[]uint64{99}, 60, damage(1), []string{"log index 1", "no snapshot can be read"}},
		"log ends before it":      {[]uint64{40, 99}, 121, damage(1), []string{"2-99-", "the log ends at 0"}},
		"all are gone": {[]uint64{99}, 60, func(t *testing.T, dir string) {
			for _, path := range snapshotDirs(t, dir) {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		}, []string{"log index 1", "61 to 121"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			populated(t, dir, 120, tc.at, tc.trim)
			tc.do(t, dir)
			before := snapshotDirs(t, dir)
			_, err := rebuild(dir, aloneConfig(t, dir))
			var damaged *CorruptError
			if !errors.As(err, &damaged) {
				t.Fatalf("got %v", err)
			}
			for _, part := range append(tc.says[:min(2, len(tc.says))], "cluster remove", dir) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\ndoes not say %q", err, part)
				}
			}
			if after := snapshotDirs(t, dir); len(after) != len(before) {
				t.Errorf("snapshots before %v, after %v", before, after)
			}
		})
	}
}

// A damaged snapshot that nobody needs is no reason to stay down.
func TestDamagedOldSnapshot(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 120, []uint64{40, 99}, 60)
	want := mustRebuild(t, dir)
	flipByte(t, filepath.Join(snapshotDirs(t, dir)[1], stateName), 20)
	if got := mustRebuild(t, dir); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A crash before the sums are written leaves a snapshot that counts, and gets them then, but only if it is whole.
func TestSnapshotWithoutSums(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 120, []uint64{100}, 60)
	want := mustRebuild(t, dir)
	path := snapshotDirs(t, dir)[0]
	mustRemove(t, filepath.Join(path, sumsName))
	if got := mustRebuild(t, dir); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if sealed, err := verifySnapshot(path); !sealed || err != nil {
		t.Errorf("sealed %v, %v", sealed, err)
	}
	mustRemove(t, filepath.Join(path, sumsName))
	flipByte(t, filepath.Join(path, stateName), 100)
	if _, err := verifySnapshot(path); err == nil {
		t.Error("damage without sums was not found")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 20, []uint64{10}, 0)
	half := filepath.Join(dir, snapshotDir, "2-15-99"+halfSnapshot)
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	mustRebuild(t, dir)
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-written snapshot is there still: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, snapshotDir, "copy-of-2-10"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := rebuild(dir, aloneConfig(t, dir)); err == nil || !strings.Contains(err.Error(), "copy-of-2-10") {
		t.Errorf("a directory of another name: %v", err)
	}
}

// A crash in the middle of the removal of an old snapshot leaves nothing that is taken for a damaged one.
func TestSnapshotThatIsHalfRemoved(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 120, []uint64{20, 40, 60}, 0)
	want := mustRebuild(t, dir)
	f := new(fatals)
	snaps, err := openSnapshots(dir, hclog.NewNullLogger(), f.note)
	if err != nil {
		t.Fatal(err)
	}
	crash := errors.New("crash")
	snaps.remove = func(path string) error { return errors.Join(os.Remove(filepath.Join(path, stateName)), crash) }
	if err := snaps.thin(2); !errors.Is(err, crash) {
		t.Fatalf("a removal that stops half-way: %v", err)
	}
	if got := mustRebuild(t, dir); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, damagedDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was set aside: %v", err)
	}
	if got := len(snapshotDirs(t, dir)); got != 2 {
		t.Errorf("%d snapshots are left, want 2", got)
	}
}

// failingSink is a disk that fails in the middle of a snapshot.
type failingSink struct {
	raft.SnapshotSink
	write, close, cancel error
}

func (s failingSink) ID() string                  { return "2-7-1" }
func (s failingSink) Write(b []byte) (int, error) { return len(b), s.write }
func (s failingSink) Close() error                { return s.close }
func (s failingSink) Cancel() error               { return s.cancel }

// Every error of a snapshot's disk is fatal, and none that is not of the disk.
func TestSnapshotErrorsAreFatal(t *testing.T) {
	full := errors.New("no space left on device")
	for name, tc := range map[string]struct {
		sink failingSink
		do   func(w *sealedSink) error
		says string
	}{
		"write":  {failingSink{write: full}, func(w *sealedSink) error { _, err := w.Write([]byte("x")); return err }, "writing snapshot 2-7-1"},
		"close":  {failingSink{close: full}, (*sealedSink).Close, "completing snapshot 2-7-1"},
		"seal":   {failingSink{}, (*sealedSink).Close, "sealing snapshot 2-7-1"},
		"cancel": {failingSink{cancel: full}, (*sealedSink).Cancel, "giving up snapshot 2-7-1"},
	} {
		t.Run(name, func(t *testing.T) {
			f := new(fatals)
			snaps, err := openSnapshots(t.TempDir(), hclog.NewNullLogger(), f.note)
			if err != nil {
				t.Fatal(err)
			}
			err = tc.do(newSealedSink(tc.sink, snaps))
			if err == nil || len(f.errs) != 1 || !strings.Contains(f.errs[0].Error(), tc.says) {
				t.Errorf("answered %v, reported %v", err, f.errs)
			}
		})
	}
	f := new(fatals)
	snaps, err := openSnapshots(t.TempDir(), hclog.NewNullLogger(), f.note)
	if err != nil {
		t.Fatal(err)
	}
	cfg := aloneConfig(t, "x")
	sink, err := snaps.Create(1, 7, 2, cfg.voters(), 1, transportOf(cfg))
	if err != nil {
		t.Fatal(err)
	}
	// As raft does when the leader's stream breaks off, or its state machine gives up.
	if err := errors.Join(sink.Cancel(), sink.Cancel()); err != nil || len(f.errs) != 0 {
		t.Errorf("a canceled snapshot: %v, reported %v", err, f.errs)
	}
	mustRemove(t, filepath.Join(snaps.dir, "../"+snapshotDir))
	if _, err := snaps.List(); err == nil || len(f.errs) != 1 {
		t.Errorf("listing what is gone: %v, reported %v", err, f.errs)
	}
}

// Damage that comes while the server runs is found before another server gets the snapshot.
func TestSnapshotIsVerifiedWhenOpened(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 40, []uint64{20}, 0)
	f := new(fatals)
	snaps, err := openSnapshots(dir, hclog.NewNullLogger(), f.note)
	if err != nil {
		t.Fatal(err)
	}
	path := snapshotDirs(t, dir)[0]
	if _, r, err := snaps.Open(filepath.Base(path)); err != nil {
		t.Fatal(err)
	} else if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	flipByte(t, filepath.Join(path, stateName), 30)
	var damaged *CorruptError
	if _, _, err := snaps.Open(filepath.Base(path)); !errors.As(err, &damaged) || len(f.errs) != 1 {
		t.Errorf("opened with %v, reported %v", err, f.errs)
	}
}

// A snapshot whose sums are right and that the state machine refuses is of another release: raft must not go on to an older one.
func TestRefusedSnapshotIsNotSkipped(t *testing.T) {
	dir := t.TempDir()
	populated(t, dir, 120, []uint64{40, 100}, 0)
	newest := snapshotDirs(t, dir)[0]
	path := filepath.Join(newest, stateName)
	raw := readFile(t, path)
	raw[11]++ // the format's version
	writeFile(t, path, raw)
	sum, err := sumFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var meta map[string]any
	if err := json.Unmarshal(readFile(t, filepath.Join(newest, metaName)), &meta); err != nil {
		t.Fatal(err)
	}
	meta["CRC"] = binary.BigEndian.AppendUint64(nil, crc64.Checksum(raw, crc64.MakeTable(crc64.ECMA)))
	metaRaw, err := json.Marshal(meta)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(newest, metaName), metaRaw)
	writeFile(t, filepath.Join(newest, sumsName), sums(metaRaw, sum))
	s, _ := mustOpen(t, dir)
	defer mustClose(t, s)
	cfg := aloneConfig(t, dir)
	snaps, _, err := openDir(cfg, s, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	conf, err := cfg.raftConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	machine := fsm.New(func(err error) { t.Error(err) })
	if r, err := raft.NewRaft(conf, machine, s, s, snaps, transportOf(cfg)); err == nil {
		_ = r.Shutdown().Error()
		t.Errorf("raft started with a state of index %d", machine.State().Index())
	}
}
