package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	// identityFile says whose data directory it is.
	identityFile = "identity.json"

	// condemnedFile says why this directory must not be started from any more.
	condemnedFile = "DO-NOT-START"

	// identityFormat is the layout of the data directory. Another one is refused, never guessed at.
	identityFormat = 1
)

// identity is the content of the identity file.
type identity struct {
	Format int    `json:"version"`
	ID     string `json:"server"`
	// Instance is drawn when the directory is first used. It tells a server that was wiped from itself.
	Instance string `json:"instance"`
	// Peers is the list at the founding, or that of the cluster when this server joined. Who the servers are now is in
	// raft's configuration.
	Peers []Peer `json:"peers"`
	// Founders are the instances of all servers at bootstrap, by id.
	Founders     map[string]string `json:"founders,omitempty"`
	Cluster      string            `json:"cluster,omitempty"`
	Bootstrapped bool              `json:"bootstrapped"`
	// Recovery is one that was begun and has not ended.
	Recovery *recovery `json:"recovery,omitempty"`
	// Removed is what was said when this server was told that it is none of the cluster any more. It stays.
	Removed string `json:"removed,omitempty"`
}

// dataDir is a data directory whose store this process holds the lock of.
type dataDir struct {
	path string

	mu  sync.Mutex // guards who
	who identity
}

// openDataDir reads the identity in dir, or makes one where the directory is new. hasState says whether the raft
// store and the snapshots hold anything. The lock on the raft store must be held already.
func openDataDir(dir string, cfg Config, hasState bool) (*dataDir, error) {
	d := &dataDir{path: dir}
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	switch {
	case errors.Is(err, os.ErrNotExist) && hasState:
		return nil, fmt.Errorf("data directory %s has raft state but no %s, so nobody can tell whose it is; "+
			"put back the directory as it was when this server last stopped, or leave the server off (docs/operations.md)", dir, identityFile)
	case errors.Is(err, os.ErrNotExist):
		who := identity{Format: identityFormat, ID: cfg.ID, Instance: rand.Text(), Peers: cfg.Peers}
		if err := d.set(who); err != nil {
			return nil, err
		}
		return d, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s in %s: %w; check the directory's owner", identityFile, dir, err)
	}
	if err := json.Unmarshal(raw, &d.who); err != nil {
		return nil, fmt.Errorf("%s in %s does not decode: %w; put back the directory as it was when this server last stopped, or leave the server off (docs/operations.md)", identityFile, dir, err)
	}
	if !d.who.Bootstrapped && d.who.Format == identityFormat && d.who.ID == cfg.ID && showPeers(d.who.Peers) != showPeers(cfg.Peers) {
		// Nothing was decided with the old list yet.
		who := d.identity()
		who.Peers = cfg.Peers
		if err := d.set(who); err != nil {
			return nil, err
		}
	}
	if err := d.check(cfg, hasState); err != nil {
		return nil, err
	}
	return d, nil
}

// check refuses a directory that is not this server's, or is not whole.
func (d *dataDir) check(cfg Config, hasState bool) error {
	who := d.identity()
	switch {
	case who.Format != identityFormat:
		return fmt.Errorf("data directory %s has format version %d, this program knows version %d; run the program that wrote it",
			d.path, who.Format, identityFormat)
	case who.Recovery != nil:
		return fmt.Errorf("a recovery of data directory %s was begun and did not end; end it with: scope-registry cluster recover --data-dir %s", d.path, d.path)
	case who.ID != cfg.ID:
		return fmt.Errorf("data directory %s belongs to server %q, not %q; start it with that id or name another directory",
			d.path, who.ID, cfg.ID)
	case d.condemned() != "":
		return &CorruptError{What: "data directory", File: d.path, Record: condemnedFile, Detail: "an earlier run left word: " + d.condemned(), Do: wayOut}
	case who.Instance == "":
		return fmt.Errorf("%s in %s has instance %q; put back the directory as it was when this server last stopped, or leave the server off (docs/operations.md)", identityFile, d.path, who.Instance)
	case who.Removed != "":
		return &RemovedError{ID: who.ID, Cluster: who.Cluster, Dir: d.path, Said: who.Removed}
	case who.Bootstrapped && !hasState:
		return fmt.Errorf("data directory %s says that server %q took part in cluster %s, but its raft state (%s) is gone: a server "+
			"without it would vote a second time and could lose acknowledged writes; put back the directory as it was when it last stopped, or leave the server off (docs/operations.md)",
			d.path, who.ID, who.Cluster, storeFile)
	}
	return nil
}

// condemned is what condemn has left, "" if nothing.
func (d *dataDir) condemned() string {
	raw, err := readWhole(d.path, condemnedFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return strings.TrimSpace(string(raw))
}

// identity returns a copy.
func (d *dataDir) identity() identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	who := d.who
	who.Peers, who.Founders = slices.Clone(who.Peers), maps.Clone(who.Founders)
	return who
}

// condemn leaves word that the directory must not be started from, and returns the reason with what became of that.
func (d *dataDir) condemn(reason error) error {
	if err := writeDurably(d.path, condemnedFile, []byte(reason.Error()+"\n")); err != nil {
		return errors.Join(reason, fmt.Errorf("writing %s in %s: %w; see that nothing starts this server again", condemnedFile, d.path, err))
	}
	return reason
}

// cluster returns the cluster id, "" before bootstrap.
func (d *dataDir) cluster() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.who.Cluster
}

// set writes the identity and then publishes it: what others are told survives a power cut.
func (d *dataDir) set(who identity) error {
	raw, err := json.MarshalIndent(who, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s of server %q: %w; report this", identityFile, who.ID, err)
	}
	if err := writeDurably(d.path, identityFile, append(raw, '\n')); err != nil {
		return fmt.Errorf("writing %s in %s: %w; check the disk and the directory's owner", identityFile, d.path, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.who = who
	return nil
}

// writeDurably replaces a file: whoever reads it, after any crash, finds the old content or the new.
func writeDurably(dir, name string, content []byte) error {
	f, err := os.CreateTemp(dir, name+".*"+halfSnapshot)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // no longer there after the rename
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// clusterID names a cluster by the instances that founded it: all founders compute the same one, and another
// cluster on the same addresses has another.
func clusterID(founders map[string]string) string {
	h := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(founders)) {
		fmt.Fprintf(h, "%q=%q\n", id, founders[id])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
