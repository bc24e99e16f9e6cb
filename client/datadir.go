package client

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/scope-registry/scope-registry/internal/inplace"
)

const (
	lockFile = "lock"
	nodeFile = "node.json"
	moveFile = "moves.json"

	// fileVersion is that of node.json, and of moves.json as an older program wrote it.
	fileVersion = 1
	// maxTokens bounds the tokens that the live session may have. Each one more than the first is of an opening in which a
	// process died; without the oldest of so many the next process waits for the lease to run out, no more.
	maxTokens = 16
)

// dataDir is what a session keeps on disk. It belongs to the node's data: whoever has a copy of it speaks for the node.
type dataDir struct {
	path string
	lock *os.File
	node string

	mu     sync.Mutex // guards what follows, and the files
	id     nodeRecord
	fresh  bool // nothing is written yet
	marked moveRecord
	marks  *inplace.File
}

// nodeRecord is the content of node.json.
type nodeRecord struct {
	Node     string   `json:"node"`
	Identity string   `json:"identity"` // random, as old as the directory
	Tokens   []string `json:"tokens"`   // one of which the live session has, oldest first
	Marks    bool     `json:"marks"`    // moves.json was made; if it is not there it was lost
}

// openDataDir takes the directory for this process, and makes it if there is none.
func openDataDir(path, node string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data dir of node %q: %w", node, err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock, node: node, marks: inplace.New(filepath.Join(path, moveFile), marksVersion)}
	if err := d.load(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *dataDir) load() error {
	known, err := d.read(nodeFile, &d.id)
	if err != nil {
		return err
	}
	moves, err := d.readMarks()
	switch {
	case err != nil:
		return err
	case known && d.id.Node != d.node:
		return fmt.Errorf("data dir %s belongs to node %q, not to %q; give each node a directory of its own", d.path, d.id.Node, d.node)
	case known && d.id.Identity == "":
		return d.damaged(nodeFile, errors.New("it holds no identity"))
	case known && d.id.Marks && !moves:
		return fmt.Errorf("data dir %s has no %s, which it had: without it nobody knows which slices are in force here; restore it with the node's data, or empty both and have an admin fence the node: scope-registry node fence %s", d.path, moveFile, d.node)
	case known:
		if _, err := d.held(); err != nil {
			return err
		}
		return d.writeMarks(d.marked)
	case moves:
		return fmt.Errorf("data dir %s has %s and no %s: without it nobody knows whose slices those are; restore the file, or empty the directory together with the node's data", d.path, moveFile, nodeFile)
	}
	d.id, d.fresh = nodeRecord{Node: d.node, Identity: random()}, true
	return nil
}

// found makes a new directory that of the node.
func (d *dataDir) found() error {
	if !d.fresh {
		return nil
	}
	// After a power cut a directory that is gone would be an empty one, of another identity.
	if err := syncDir(filepath.Dir(d.path)); err != nil {
		return fmt.Errorf("data dir %s: the directory it is in cannot be synced: %w", d.path, err)
	}
	if err := d.setTokens(func(none []string) []string { return none }); err != nil {
		return err
	}
	return d.writeMarks(moveRecord{})
}

// close gives the directory back.
func (d *dataDir) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept.Delete(d.lock)
	return errors.Join(d.marks.Close(), d.lock.Close())
}

// keep has the lock last as long as the process, unless close comes after all. A file that nobody refers to any more is
// closed by the garbage collector, and with it the lock would go, though a write is still under way.
func (d *dataDir) keep() { kept.Store(d.lock, nil) }

// kept are the locks of sessions that could not be closed whole.
var kept sync.Map // of *os.File

// identity is that of the node's data.
func (d *dataDir) identity() string { return d.id.Identity }

// tokens are those that the live session may have, oldest first.
func (d *dataDir) tokens() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.id.Tokens)
}

// setTokens is durable when it returns without an error.
func (d *dataDir) setTokens(change func([]string) []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.id
	next.Tokens = change(slices.Clone(next.Tokens))
	next.Tokens = next.Tokens[max(0, len(next.Tokens)-maxTokens):]
	if err := d.write(nodeFile, next); err != nil {
		return err
	}
	d.id, d.fresh = next, false
	return nil
}

// envelope is what node.json holds: a flipped bit in it could make the node another one.
type envelope struct {
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"` // of the compact body, in hex
	Body    json.RawMessage `json:"body"`
}

// read reports whether the file is there.
func (d *dataDir) read(name string, into any) (bool, error) {
	data, err := os.ReadFile(filepath.Join(d.path, name)) // #nosec G304 -- the directory is the caller's own
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("data dir: %w", err)
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return false, d.damaged(name, err)
	}
	switch {
	case e.Version == marksVersion && name == moveFile:
		return false, d.damaged(name, inplace.ErrNoCopy)
	case e.Version != fileVersion:
		return false, fmt.Errorf("%s is of version %d, and this program does not know that version; run the program that wrote it", filepath.Join(d.path, name), e.Version)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, e.Body); err != nil {
		return false, d.damaged(name, err)
	}
	if sum := sha256.Sum256(body.Bytes()); hex.EncodeToString(sum[:]) != e.SHA256 {
		return false, d.damaged(name, fmt.Errorf("its checksum is %x, and it says %s", sum, e.SHA256))
	}
	if err := json.Unmarshal(body.Bytes(), into); err != nil {
		return false, d.damaged(name, err)
	}
	return true, nil
}

func (d *dataDir) damaged(name string, err error) error {
	return fmt.Errorf("%s is damaged: %w; restore it with the node's data, or empty both and have an admin fence the node: scope-registry node fence %s", filepath.Join(d.path, name), err, d.node)
}

// write replaces a file as a whole: after a crash it is the old one or the new one. Which one is not known either after
// an error, that may be of what comes behind the rename; what failed may be tried again.
func (d *dataDir) write(name string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	data, err := json.Marshal(envelope{fileVersion, hex.EncodeToString(sum[:]), body})
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(d.path, name), data); err != nil {
		return fmt.Errorf("data dir: %s is not written: %w", name, err)
	}
	return nil
}

func replaceFile(path string, data []byte) error {
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // #nosec G304 -- the directory is the caller's own
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path) // #nosec G304 -- the directory is the caller's own
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// random is 128 random bits in hex.
func random() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	return hex.EncodeToString(raw[:])
}
