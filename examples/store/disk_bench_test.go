package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/scope-registry/scope-registry/client"
)

// A put of 100 bytes by writers that each wait for their own: through Write, and through bbolt's two ways.
func BenchmarkPut(b *testing.B) {
	ways := map[string]func(d *Disk, key []byte) error{
		"Write": func(d *Disk, key []byte) error {
			return d.Write(client.Token{}, []Change{{Key: key, Value: make([]byte, 100)}})
		},
		"Update": func(d *Disk, key []byte) error {
			return d.db.Update(func(tx *bbolt.Tx) error { return values(tx).Put(key, make([]byte, 124)) })
		},
		"Batch": func(d *Disk, key []byte) error {
			return d.db.Batch(func(tx *bbolt.Tx) error { return values(tx).Put(key, make([]byte, 124)) })
		},
	}
	for _, way := range []string{"Write", "Update", "Batch"} {
		for _, writers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/writers=%d", way, writers), func(b *testing.B) {
				d := openBench(b)
				b.ResetTimer()
				var next atomic.Int64
				var all sync.WaitGroup
				for range writers {
					all.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							if err := ways[way](d, fmt.Appendf(nil, "a:%08d", i%10_000)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
			})
		}
	}
}

func openBench(b *testing.B) *Disk {
	b.Helper()
	d, err := OpenDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	return d
}

// A slice of 64,000 records of 1 KiB, staged in batches of 256, with and without the fsyncs that Stage does; then what
// is done with it.
func BenchmarkSlice(b *testing.B) {
	const n, size, batch = 64_000, 1 << 10, 256
	s := client.Slice{Move: "m", Prefix: "a:"}
	stage := func(d *Disk) error {
		var records []client.Record
		for i := range n {
			records = append(records, client.Record{Key: fmt.Appendf(nil, "a:%08d", i), Value: make([]byte, size)})
			if len(records) == batch || i == n-1 {
				if err := d.Stage(context.Background(), s, records); err != nil {
					return err
				}
				records = nil
			}
		}
		return nil
	}
	nothing := func(client.Record) error { return nil }
	promoted := func(d *Disk) error { return d.Promote(context.Background(), s) }
	for _, step := range []struct {
		name   string
		before []func(*Disk) error
		do     func(*Disk) error
	}{
		{"Stage", nil, stage},
		{"StageNoSync", []func(*Disk) error{func(d *Disk) error { d.db.NoSync = true; return nil }}, func(d *Disk) error {
			if err := stage(d); err != nil {
				return err
			}
			return d.db.Sync()
		}},
		{"Verify", []func(*Disk) error{stage}, func(d *Disk) error { return d.Verify(context.Background(), s, nothing) }},
		{"Promote", []func(*Disk) error{stage}, promoted},
		{"PromoteAgain", []func(*Disk) error{stage, promoted}, promoted},
		{"Ship", []func(*Disk) error{stage, promoted}, func(d *Disk) error { return d.Ship(context.Background(), s, nothing) }},
		{"Discard", []func(*Disk) error{stage}, func(d *Disk) error { return d.Discard(context.Background(), s.Move) }},
	} {
		b.Run(step.name, func(b *testing.B) {
			b.SetBytes(n * size)
			for range b.N {
				b.StopTimer()
				d := openBench(b)
				for _, f := range step.before {
					if err := f(d); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				if err := step.do(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
