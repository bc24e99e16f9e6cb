package slices

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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

const entrySuffix = ".json"

// ledger is a directory with a file for each entry. Each change is on the disk when it returns.
type ledger string

// path is a name that any id has, however long, and no other id.
func (d ledger) path(move string) string {
	sum := sha256.Sum256([]byte(move))
	return filepath.Join(string(d), hex.EncodeToString(sum[:])+entrySuffix)
}

// open makes the directory and reads the entries.
func (d ledger) open() (all []entry, err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("the directory for what is staged: %w", err)
	}
	files, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("what is staged cannot be read: %w", err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), entrySuffix) {
			continue // a new file that was not put in place
		}
		name := filepath.Join(string(d), f.Name())
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("what is staged cannot be read: %w", err)
		}
		var e entry
		if json.Unmarshal(data, &e) != nil || d.path(e.Move) != name || e.Phase != staging && e.Phase != promoted {
			return nil, fmt.Errorf("file %s does not say what is staged: restore it, or see what the store has under the prefix of that move, and delete the file", name)
		}
		all = append(all, e)
	}
	return all, nil
}

// put writes an entry in place of the one before.
func (d ledger) put(e entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	name := d.path(e.Move)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("what is staged cannot be noted: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = d.sync()
	}
	if err != nil {
		return fmt.Errorf("what is staged cannot be noted: %w", err)
	}
	return nil
}

// drop deletes an entry, if it is there.
func (d ledger) drop(move string) error {
	err := os.Remove(d.path(move))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.sync()
	}
	if err != nil {
		return fmt.Errorf("what is staged cannot be noted: %w", err)
	}
	return nil
}

func (d ledger) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
