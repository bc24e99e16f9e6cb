package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/boottime"
)

const (
	// syncs, trips and reads are how often a floor is measured: a second each at most.
	syncs = 500
	trips = 5000
	reads = 100_000
	// record is what is appended and synced, in bytes: about one log entry.
	record = 512
	// mark is what is overwritten and synced for a mark of a move, in bytes.
	mark = 8 << 10
)

// floors measures what no design can go below on this machine: its disk, its clock, its loopback.
func floors(ctx context.Context, r *report, dir string) error {
	disk, err := syncTimes(filepath.Join(dir, "sync"))
	if err != nil {
		return err
	}
	rename, err := renameTimes(dir)
	if err != nil {
		return err
	}
	over, err := overwriteTimes(filepath.Join(dir, "mark"))
	if err != nil {
		return err
	}
	loop, err := roundTrips(ctx)
	if err != nil {
		return err
	}
	r.line("")
	r.samples("physical floors", "µs")
	r.sampleRow("append 512 B and fdatasync", disk, time.Microsecond)
	r.sampleRow("write-then-rename of 512 B with both fsyncs", rename, time.Microsecond)
	r.sampleRow("overwrite 8 KiB in place and fdatasync", over, time.Microsecond)
	r.sampleRow("TCP round trip of one byte on loopback", loop, time.Microsecond)
	r.sampleRow("CLOCK_BOOTTIME, mean of 100 readings", clockTimes(), time.Microsecond)
	return r.err
}

func syncTimes(path string) (sample, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	var out sample
	data := make([]byte, record)
	for range syncs {
		began := time.Now()
		_, err := f.Write(data)
		if err == nil {
			err = syscall.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		out = append(out, time.Since(began))
	}
	return out, errors.Join(f.Close(), os.Remove(path))
}

// overwriteTimes is what the data dir of a session does for each mark of a move: half of a file whose size does not change.
func overwriteTimes(path string) (sample, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 2*mark)
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	var out sample
	for i := range syncs {
		if err != nil {
			break
		}
		began := time.Now()
		if _, err = f.WriteAt(data[:mark], int64(i%2)*mark); err == nil {
			err = syscall.Fdatasync(int(f.Fd()))
		}
		out = append(out, time.Since(began))
	}
	return out, errors.Join(err, f.Close(), os.Remove(path))
}

// renameTimes is what it takes to replace a small file so that it survives a loss of power.
func renameTimes(dir string) (sample, error) {
	var out sample
	path := filepath.Join(dir, "mark")
	data := make([]byte, record)
	for range syncs {
		began := time.Now()
		if err := replace(path, data); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
	}
	return out, os.Remove(path)
}

func replace(path string, data []byte) error {
	f, err := os.Create(path + ".new")
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
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// roundTrips sends one byte over loopback and waits for it to come back.
func roundTrips(ctx context.Context) (out sample, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var echo sync.WaitGroup
	echo.Go(func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c) // ends when the other side closes
			_ = c.Close()
		}
	})
	defer echo.Wait()
	defer func() { err = errors.Join(err, l.Close()) }()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	one := make([]byte, 1)
	for range trips {
		began := time.Now()
		if _, err := c.Write(one); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, one); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
	}
	return out, nil
}

func clockTimes() sample {
	const together = 100
	var out sample
	for range reads / together {
		began := time.Now()
		for range together {
			_ = boottime.Now()
		}
		out = append(out, time.Since(began)/together)
	}
	return out
}

// bare is the least that a watch can be: connections over which a goroutine writes one number each, with nothing in
// between and no other process.
type bare struct {
	listener net.Listener
	mu       sync.Mutex // guards conns
	conns    []net.Conn
	accepts  sync.WaitGroup
}

func startBare() (*bare, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &bare{listener: l}
	b.accepts.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			_, _ = c.Write(make([]byte, 8)) // tells the watcher that it is on
			b.mu.Unlock()
		}
	})
	return b, nil
}

func (b *bare) name() string { return "bare TCP" }

func (b *bare) resident() (uint64, error) { return 0, nil }

func (b *bare) stop() error {
	err := b.listener.Close()
	b.accepts.Wait()
	for _, c := range b.conns {
		_ = c.Close() // the other side has
	}
	return err
}

func (b *bare) change(_ context.Context, seq uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	number := binary.BigEndian.AppendUint64(nil, seq)
	// Those of a round that is over fail by its second change.
	b.conns = slices.DeleteFunc(b.conns, func(c net.Conn) bool {
		_, err := c.Write(number)
		return err != nil && c.Close() == nil
	})
	return nil
}

func (b *bare) watch(ctx context.Context, _ int, live func(), seen func(seq uint64)) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.listener.Addr().String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() {
		if stop() {
			_ = c.Close()
		}
	}()
	number := make([]byte, 8)
	for {
		if _, err := io.ReadFull(c, number); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		if seq := binary.BigEndian.Uint64(number); seq == 0 {
			live()
		} else {
			seen(seq)
		}
	}
}
