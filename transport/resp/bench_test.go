package resp

import (
	"bytes"
	"io"
	"testing"
)

// A pipeline of 64 commands, as redis-benchmark -P 64 sends it. One operation is one command.
func BenchmarkNext(b *testing.B) {
	stream := bytes.Repeat(array("SCOPE", "ROUTE", "app:billing:invoice:12345678"), 64)
	in := bytes.NewReader(stream)
	r := NewReader(in, DefaultLimits())
	b.ReportAllocs()
	b.SetBytes(int64(len(stream) / 64))
	for b.Loop() {
		if r.Buffered() == 0 && in.Len() == 0 {
			in.Reset(stream)
		}
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// One operation is a reply with a map; 64 of them are flushed together.
func BenchmarkWriter(b *testing.B) {
	w := NewWriter(io.Discard)
	w.SetProto(3)
	data := []byte("app:billing:")
	b.ReportAllocs()
	replies := 0
	for b.Loop() {
		reply(w, data)
		if replies++; replies%64 == 0 {
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
