package slices

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/inplace"
	"github.com/scope-registry/scope-registry/scope"
)

// phase is how far a slice is on its target.
type phase string

const (
	// staging: the prefix has been closed to clients since before the first record came, and what is there may be wiped.
	staging phase = "staging"
	// promoted: what is there is the node's own. It is never wiped for this move's sake again.
	promoted phase = "promoted"
)

// entry is what the gate's own disk knows of a slice. A store that is restarted may have forgotten a minute; this has not.
type entry struct {
	Move   string `json:"move"`
	Prefix []byte `json:"prefix"`
	Phase  phase  `json:"phase"`
	Empty  bool   `json:"empty,omitempty"` // the slice is settled, and has no keys: a store cannot lose any of it
}

func (e entry) prefix() scope.Prefix { return scope.Prefix(e.Prefix) }

const (
	// stagedFile has the entries. An older program had a file for each, and refuses this one.
	stagedFile    = "staged.json"
	stagedVersion = 1
	oldSuffix     = ".json"
)

// ledger is that file. Each change is on the disk when it returns.
type ledger struct {
	dir  string
	file *inplace.File
	all  []entry
}

// openLedger makes the directory, and reads the entries. Those of an older program are in the new file before the old ones go,
// and while there is a new one no older program begins. Until the old ones are gone no entry changes, so that one that says
// something else was put there by somebody: which of the two is true only the store can tell.
func openLedger(dir string) (*ledger, error) {
	d := &ledger{dir: dir, file: inplace.New(filepath.Join(dir, stagedFile), stagedVersion)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory for what is staged: %w", err)
	}
	body, err := inplace.Read(d.path(), stagedVersion)
	is := !errors.Is(err, fs.ErrNotExist)
	if err == nil {
		err = json.Unmarshal(body, &d.all)
	}
	if is && (err != nil || slices.ContainsFunc(d.all, entry.unknown)) {
		return nil, notSaid(d.path(), err)
	}
	old, entries, err := d.older()
	if !is {
		d.all = entries
	}
	for i, e := range entries {
		if err == nil && !slices.ContainsFunc(d.all, e.equal) {
			err = notSaid(old[i], fmt.Errorf("it has move %s %s under %q, and %s does not", e.Move, e.Phase, e.prefix(), stagedFile))
		}
	}
	if err == nil {
		err = d.write(d.all)
	}
	for _, name := range old {
		if err == nil {
			err = os.Remove(name)
		}
	}
	if err == nil && len(old) > 0 {
		err = d.sync()
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *ledger) path() string { return filepath.Join(d.dir, stagedFile) }

func (e entry) unknown() bool { return e.Phase != staging && e.Phase != promoted }

func (e entry) equal(other entry) bool {
	return e.Move == other.Move && bytes.Equal(e.Prefix, other.Prefix) && e.Phase == other.Phase && e.Empty == other.Empty
}

func notSaid(name string, err error) error {
	if err == nil {
		err = errors.New("it is not what a gate writes")
	}
	return fmt.Errorf("file %s does not say what is staged: %w; restore it, or see what the store has under the prefixes of the moves that came here, and delete the file", name, err)
}

// older returns the names of an older program's files, and what they say.
func (d *ledger) older() (names []string, all []entry, err error) {
	files, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("what is staged cannot be read: %w", err)
	}
	for _, f := range files {
		name := filepath.Join(d.dir, f.Name())
		if !strings.HasSuffix(name, oldSuffix) || f.Name() == stagedFile {
			continue // a new file that was not put in place
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, fmt.Errorf("what is staged cannot be read: %w", err)
		}
		var e entry
		err = json.Unmarshal(data, &e)
		sum := sha256.Sum256([]byte(e.Move))
		if err != nil || f.Name() != hex.EncodeToString(sum[:])+oldSuffix || e.unknown() {
			return nil, nil, notSaid(name, err)
		}
		names, all = append(names, name), append(all, e)
	}
	return names, all, nil
}

// put writes an entry in place of the one before.
func (d *ledger) put(e entry) error { return d.write(append(d.without(e.Move), e)) }

// drop deletes an entry, if it is there.
func (d *ledger) drop(move string) error { return d.write(d.without(move)) }

func (d *ledger) without(move string) []entry {
	return slices.DeleteFunc(slices.Clone(d.all), func(e entry) bool { return e.Move == move })
}

func (d *ledger) write(all []entry) error {
	body, err := json.Marshal(all)
	if err == nil {
		err = d.file.Put(body)
	}
	if err != nil {
		return fmt.Errorf("what is staged cannot be noted: %w", err)
	}
	d.all = all
	return nil
}

// finish has all copies be of the last change, when nobody waits for it.
func (d *ledger) finish() error { return d.file.Finish() }

func (d *ledger) close() error { return d.file.Close() }

func (d *ledger) sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
