package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// damagedDir is where a snapshot that cannot be read is moved, below the data directory, to be looked into. As many as
// there are good ones are kept there.
const damagedDir = "damaged"

// reach is what a log holds: entries up to last, without a gap from the index from on. Both are 0 where it is empty. A
// snapshot of another server leaves a gap between the entries before it and those after.
type reach struct{ from, last uint64 }

// settle reads every snapshot and makes sure that raft will start from the state of all that was ever in the log: from
// the newest snapshot, or from an older one whose entries after it are all there. Otherwise it refuses, for raft itself
// would take an older snapshot, or none, and begin with what comes after a gap.
func (s *snapshots) settle(log reach) error {
	if err := s.sweep(); err != nil {
		return err
	}
	names, err := s.names()
	if err != nil {
		return err
	}
	var good snapshotName
	var bad []snapshotName
	var why []error
	for _, n := range names {
		sealed, err := verifySnapshot(filepath.Join(s.dir, n.id))
		switch {
		case err != nil:
			bad, why = append(bad, n), append(why, err)
			continue
		case !sealed:
			if err := s.adopt(n); err != nil {
				return err
			}
		}
		s.verified[n.id] = true
		if n.newer(good) {
			good = n
		}
	}
	if err := s.reaches(log, good, bad, why); err != nil {
		return err
	}
	if good.id != "" {
		info, err := os.Stat(filepath.Join(s.dir, good.id, stateName))
		if err != nil {
			return fmt.Errorf("looking for the size of snapshot %s: %w; check the disk", good.id, err)
		}
		s.newest.Store(uint64(info.Size()))
	}
	for i, n := range bad {
		s.log.Error("a snapshot is damaged and is set aside; an older one and the log are used", "error", why[i], "index", n.index, "from", good.index)
		if err := s.setAside(n); err != nil {
			return err
		}
	}
	return nil
}

// reaches says whether the log goes on where the newest good snapshot ends, 0 if there is none, and as far as any
// snapshot went.
func (s *snapshots) reaches(log reach, good snapshotName, bad []snapshotName, why []error) error {
	broken := func(record, format string, args ...any) error {
		all := []error{&CorruptError{What: "data directory", File: filepath.Dir(s.dir), Record: record, Detail: fmt.Sprintf(format, args...), Do: wayOut}}
		for _, err := range why {
			var one *CorruptError
			if errors.As(err, &one) { // alone it would have the server started again
				cause := *one
				cause.Do = "see above"
				err = &cause
			}
			all = append(all, err)
		}
		return errors.Join(all...)
	}
	have := "no snapshot can be read"
	if good.id != "" {
		have = fmt.Sprintf("the newest snapshot that can be read is of index %d", good.index)
	}
	if log.last > good.index && log.from > good.index+1 {
		return broken(fmt.Sprintf("log index %d", good.index+1), "%s, and the log has entries %d to %d: what is between is gone", have, log.from, log.last)
	}
	for _, n := range bad {
		if n.index > good.index && n.index > log.last {
			return broken("snapshot "+n.id, "it cannot be read, %s, and the log ends at %d: what is between is gone", have, log.last)
		}
	}
	return nil
}

// adopt seals a snapshot that a crash, or an older release, left without sums.
func (s *snapshots) adopt(n snapshotName) error {
	path := filepath.Join(s.dir, n.id)
	meta, err := readWhole(path, metaName)
	var sum []byte
	if err == nil {
		sum, err = sumFile(filepath.Join(path, stateName))
	}
	if err == nil {
		err = writeDurably(path, sumsName, sums(meta, sum))
	}
	if err != nil {
		return fmt.Errorf("sealing snapshot %s: %w; check the disk", path, err)
	}
	return nil
}

// setAside moves a damaged snapshot out of raft's sight.
func (s *snapshots) setAside(n snapshotName) error {
	aside := filepath.Join(filepath.Dir(s.dir), damagedDir)
	to := filepath.Join(aside, n.id)
	err := errors.Join(os.MkdirAll(aside, 0o700), os.RemoveAll(to))
	if err == nil {
		err = os.Rename(filepath.Join(s.dir, n.id), to)
	}
	entries, listErr := os.ReadDir(aside) // by name
	err = errors.Join(err, listErr)
	slices.Reverse(entries)
	for _, e := range entries[min(len(entries), snapshotsKept):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(aside, e.Name())))
	}
	if err != nil {
		return fmt.Errorf("moving the damaged snapshot %s to %s: %w; move it by hand", n.id, aside, err)
	}
	return nil
}
