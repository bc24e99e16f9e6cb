package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) backupCmd() *cobra.Command {
	return group("backup", "Save the whole state, check what was saved, and put it back", `
A backup is the whole state of the registry at one index, in one file with
checksums: scopes, nodes, moves, pending cleanups and what retries need.`,
		"  scope-registry backup save scopes.backup", c.backupSaveCmd(), c.backupVerifyCmd(), c.backupRestoreCmd())
}

// backup is what a backup file holds.
type backup struct {
	File        string `json:"file"`
	Written     string `json:"written,omitempty"` // RFC 3339; a file of an older release does not say
	Cluster     string `json:"cluster"`
	Incarnation uint64 `json:"incarnation"`
	Index       uint64 `json:"index"`
	Scopes      int    `json:"scopes"`
	Nodes       int    `json:"nodes"`
	Moves       int    `json:"running_moves"`
	Cleanups    int    `json:"pending_cleanups"`
	Hash        string `json:"state_hash"` // as cluster status --hash shows it
	Bytes       int64  `json:"bytes"`
	SHA256      string `json:"sha256"` // of the whole file, as sha256sum prints it

	state fsm.State
}

func (c *cli) backupFacts(b backup) error {
	return c.show(b, func() error {
		return c.table("", [][]string{{"file", b.File}, {"written", dash(b.Written)}, {"cluster", b.Cluster}, {"incarnation", num(b.Incarnation)},
			{"index", num(b.Index)}, {"scopes", fmt.Sprint(b.Scopes)}, {"nodes", fmt.Sprint(b.Nodes)}, {"running moves", fmt.Sprint(b.Moves)},
			{"pending cleanups", fmt.Sprint(b.Cleanups)}, {"state hash", b.Hash}, {"bytes", fmt.Sprint(b.Bytes)}, {"sha256", b.SHA256}})
	})
}

func (c *cli) backupSaveCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "save FILE", Short: "Save the state into a file",
		Long: `Save the state of the answering server, which has all that was acknowledged
before, into a file. It appears under its name only when it is complete, on disk
and checked. With - it goes to standard output and what it holds to standard error.
A file that exists is kept unless --force is given.`,
		Example: "  scope-registry backup save scopes-$(date +%F).backup",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			if args[0] == "-" {
				return c.saveStream(cmd.Context(), cl)
			}
			b, err := c.saveFile(cmd.Context(), cl, args[0], force)
			if err != nil {
				return err
			}
			return c.backupFacts(b)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite the file")
	return cmd
}

func (c *cli) backupVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check a backup, and say what it holds",
		Long: `Check every checksum of a backup, load it into a state as a server would, and
check that the state contradicts itself nowhere. No server is asked; - is standard
input. A damaged file is CORRUPT (exit 9) and the message says where.`,
		Example: "  scope-registry backup verify scopes.backup",
		RunE: func(_ *cobra.Command, args []string) error {
			from := c.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return openFailed(args[0], err)
				}
				defer func() { _ = f.Close() }()
				from = f
			}
			b, err := c.verify(args[0], from)
			if err != nil {
				return err
			}
			return c.backupFacts(b)
		},
	}
}

// saveFile writes the backup beside its place and moves it there when it is
// checked, so that a file under its name is always a whole backup.
func (c *cli) saveFile(ctx context.Context, cl *client.Client, name string, force bool) (b backup, err error) {
	if err := c.mayWrite(name, force); err != nil {
		return b, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return b, writeFailed(name, err)
	}
	defer func() {
		_ = tmp.Close()
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := c.download(ctx, cl, name, tmp); err != nil {
		return b, err
	}
	if err := tmp.Sync(); err != nil {
		return b, writeFailed(name, err)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return b, writeFailed(name, err)
	}
	if b, err = c.verify(name, tmp); err != nil {
		return b, err
	}
	if err := c.mayWrite(name, force); err != nil { // it may have come meanwhile
		return b, err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return b, writeFailed(name, err)
	}
	return b, syncDir(name)
}

// mayWrite refuses to overwrite a file.
func (c *cli) mayWrite(name string, force bool) error {
	if _, err := os.Lstat(name); err == nil && !force {
		return invalid("%s exists; choose another name, or overwrite it with --force", name)
	}
	return nil
}

// download fills to with the backup. The error tells a server that failed from
// a disk that did.
func (c *cli) download(ctx context.Context, cl *client.Client, name string, to io.Writer) error {
	var done atomic.Int64
	end := c.goLive(transferred("received", &done))
	defer end()
	w := &failing{to: io.MultiWriter(to, counter{&done})}
	_, err := cl.Backup(ctx, w)
	if w.err != nil {
		return writeFailed(name, w.err)
	}
	return err
}

// saveStream writes the backup to standard output and checks it on its way.
func (c *cli) saveStream(ctx context.Context, cl *client.Client) error {
	if columns(c.out) > 0 {
		return invalid("a backup is not for a terminal; give the name of a file, or send standard output into one")
	}
	r, w := io.Pipe()
	checked := make(chan error, 1)
	var b backup
	go func() {
		var err error
		b, err = readBackup("-", r)
		_, _ = io.Copy(io.Discard, r) // a check that failed must not stop the writing
		checked <- err
	}()
	err := c.download(ctx, cl, "standard output", io.MultiWriter(c.out, w))
	_ = w.Close()
	if bad := <-checked; err == nil {
		err = bad
	}
	if err != nil {
		return err
	}
	c.out = c.err // it has carried its answer
	return c.backupFacts(b)
}

// verify reads a backup and shows how far it is.
func (c *cli) verify(name string, from io.Reader) (backup, error) {
	var done atomic.Int64
	end := c.goLive(transferred("checked", &done))
	defer end()
	return readBackup(name, io.TeeReader(from, counter{&done}))
}

// readBackup loads a backup as a server would and says what it holds.
func readBackup(name string, from io.Reader) (backup, error) {
	var bytes atomic.Int64
	sum := sha256.New()
	st, writtenMS, err := fsm.LoadBackup(bufio.NewReaderSize(io.TeeReader(from, io.MultiWriter(sum, counter{&bytes})), 1<<20))
	if err != nil {
		return backup{}, &api.Error{Code: api.Corrupt, Detail: fmt.Sprintf("%s is no whole backup: %v", name, err)}
	}
	b := backup{File: name, Cluster: st.Cluster().ID, Incarnation: st.Cluster().Incarnation, Index: st.Index(), Scopes: st.Scopes().Len(), Nodes: st.NodesLen(),
		Moves: st.Moves().RunningLen(), Cleanups: st.CleanupsLen(), Hash: st.Hash(), Bytes: bytes.Load(), SHA256: hex.EncodeToString(sum.Sum(nil)), state: st}
	if writtenMS > 0 {
		b.Written = time.UnixMilli(writtenMS).UTC().Format(time.RFC3339)
	}
	return b, nil
}

// syncDir makes the file's name durable.
func syncDir(name string) error {
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return writeFailed(name, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return writeFailed(name, err)
	}
	return nil
}

func openFailed(name string, err error) error {
	code := api.Invalid
	if errors.Is(err, os.ErrNotExist) {
		code = api.NotFound
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("%s cannot be read: %v", name, err)}
}

func writeFailed(name string, err error) error {
	var at *os.PathError // of the temporary file, whose name says nothing to anybody
	if errors.As(err, &at) {
		err = at.Err
	}
	return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s cannot be written: %v", name, err)}
}

// failing remembers that writing failed.
type failing struct {
	to  io.Writer
	err error
}

func (w *failing) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// counter counts bytes that pass.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// transferred is the live line of a file on its way.
func transferred(verb string, n *atomic.Int64) func(time.Time) string {
	began := time.Now()
	return func(now time.Time) string {
		return fmt.Sprintf("%s %.1f MiB in %s", verb, float64(n.Load())/(1<<20), whole(now.Sub(began)))
	}
}
