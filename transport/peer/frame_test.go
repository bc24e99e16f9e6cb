package peer

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrameBounds(t *testing.T) {
	largest := appendFrame(nil, 7, byte(KindPropose), make([]byte, MaxCallPayload))
	if h, err := readFrameHead(bytes.NewReader(largest)); err != nil || h.size != MaxCallPayload || h.id != 7 {
		t.Errorf("largest frame: %+v, %v", h, err)
	}
	for name, raw := range map[string][]byte{
		"a byte too large":    appendFrame(nil, 7, byte(KindPropose), make([]byte, MaxCallPayload+1)),
		"absurd":              {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1},
		"shorter than a head": {0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1},
		"alive with payload":  appendFrame(nil, 0, codeAlive, []byte("x")),
		"alive for a call":    appendFrame(nil, 3, codeAlive, nil),
		"cancel with payload": appendFrame(nil, 3, codeCancel, []byte("x")),
	} {
		if h, err := readFrameHead(bytes.NewReader(raw)); !errors.Is(err, errBadFrame) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestKindNames(t *testing.T) {
	for k, want := range map[Kind]string{
		KindPropose: "propose", KindConfirm: "confirm", KindStatus: "status", KindHello: "hello", KindTransfer: "transfer", 9: "kind-9",
	} {
		if k.String() != want {
			t.Errorf("kind %d is %q", byte(k), k)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, 1, byte(KindPropose), []byte("payload")))
	f.Add(appendFrame(appendFrame(nil, 0, codeAlive, nil), 2, codeCancel, nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		var again []byte
		for {
			h, err := readFrameHead(r)
			if err != nil {
				break
			}
			payload, err := readPayload(r, h)
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
					t.Fatal(err)
				}
				break
			}
			again = appendFrame(again, h.id, h.code, payload)
		}
		if !bytes.HasPrefix(raw, again) {
			t.Errorf("%x was read as %x", raw, again)
		}
	})
}
