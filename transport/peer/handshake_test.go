package peer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestHandshakeCodec(t *testing.T) {
	long := strings.Repeat("x", maxString)
	for _, h := range []hello{
		{purpose: purposeRaft, from: "s1", addr: "10.0.0.1:7000"},
		{purpose: purposeCall, from: "s1", cluster: "c", target: "s2", addr: "a:1"},
		{purpose: purposeCall, from: long, cluster: long, target: long, addr: long},
	} {
		r := bytes.NewReader(append(h.encode(), "raft's first byte"...))
		got, err := readHello(r)
		if err != nil || got != h {
			t.Errorf("%+v came back as %+v, %v", h, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "raft's first byte" {
			t.Errorf("bytes behind the handshake were read: %q left", rest)
		}
	}
	a := answer{code: answerRefused, text: strings.Repeat("y", 3*maxString), id: "s1", cluster: "c"}
	got, err := readAnswer(bytes.NewReader(a.encode()))
	if a.text = a.text[:maxString]; err != nil || got != a {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestHandshakeRefusesOthers(t *testing.T) {
	good := hello{purpose: purposeRaft, from: "s1", addr: "a:1"}.encode()
	edit := func(at int, b byte) []byte {
		c := bytes.Clone(good)
		c[at] = b
		return c
	}
	for name, tc := range map[string]struct {
		raw  []byte
		want error
	}{
		"http":             {[]byte("POST / HTTP/1.1\r\nHost: a\r\n\r\n"), errNotPeer},
		"nothing":          {nil, errNotPeer},
		"cut":              {good[:len(good)-1], errNotPeer},
		"cut head":         {good[:5], errNotPeer},
		"version":          {edit(4, 2), errVersion},
		"purpose":          {edit(5, 77), errNotPeer},
		"answer's code":    {edit(5, answerOK), errNotPeer},
		"huge body":        {edit(6, 0xff), errNotPeer},
		"string too long":  {edit(8, 0xff), errNotPeer},
		"too few strings":  {encodeHandshake(purposeRaft, "a", "b"), errNotPeer},
		"too many strings": {encodeHandshake(purposeRaft, "a", "b", "c", "d", "e"), errNotPeer},
	} {
		if h, err := readHello(bytes.NewReader(tc.raw)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	// A refusal can be read whatever the version of who refuses: it may be the reason.
	refusal := answer{code: answerRefused, text: "too old", id: "s1"}.encode()
	refusal[4] = 9
	if a, err := readAnswer(bytes.NewReader(refusal)); err != nil || a.text != "too old" {
		t.Errorf("%+v, %v", a, err)
	}
	accepted := answer{code: answerOK}.encode()
	accepted[4] = 9
	if _, err := readAnswer(bytes.NewReader(accepted)); !errors.Is(err, errVersion) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("%v", err)
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add(hello{purpose: purposeCall, from: "s1", cluster: "c", target: "s2", addr: "a:1"}.encode())
	f.Add(answer{code: answerRefused, text: "why", id: "s1", cluster: "c"}.encode())
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		if h, err := readHello(r); err == nil {
			if used := raw[:len(raw)-r.Len()]; !bytes.Equal(h.encode(), used) {
				t.Errorf("%x was read as %+v, which is %x", used, h, h.encode())
			}
		}
		r = bytes.NewReader(raw)
		if a, err := readAnswer(r); err == nil {
			used := bytes.Clone(raw[:len(raw)-r.Len()])
			used[4] = protocolVersion // refusals of any version are read
			if !bytes.Equal(a.encode(), used) {
				t.Errorf("%x was read as %+v, which is %x", used, a, a.encode())
			}
		}
	})
}
