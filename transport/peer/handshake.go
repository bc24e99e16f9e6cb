package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Wire form of a handshake, in both directions: magic (4 bytes), version, code, length of the body (2 bytes,
// big-endian), body. The body is a fixed number of strings, each with its length in 2 bytes before it. The first
// six bytes and the answer's form stay the same in every version, so that two versions can refuse each other in
// words.
const (
	// protocolVersion is raised with every change of what follows the handshake.
	protocolVersion byte = 1

	// handshakeTimeout bounds the whole handshake on either side, that of TLS included. Servers of one cluster need three
	// round trips and a millisecond of a processor, which on a machine with none to spare can take its time.
	handshakeTimeout = 4 * time.Second

	headSize = 8

	// maxString bounds one string of a handshake. Host names have at most 253 characters, ids are shorter.
	maxString = 512
	// helloStrings and answerStrings are the numbers of strings in the two bodies.
	helloStrings, answerStrings = 4, 3
	// maxBody is the largest body, read into memory before the other side is known.
	maxBody = helloStrings * (2 + maxString)
)

// Codes of a hello (what the connection is for) and of an answer.
const (
	purposeRaft   byte = 1
	purposeCall   byte = 2
	answerOK      byte = 0x11
	answerRefused byte = 0x12
)

var magic = [4]byte{'s', 'c', 'r', 'g'}

var (
	errNotPeer = errors.New("the other side does not speak the protocol between servers")
	errVersion = errors.New("other version of the protocol between servers")
)

// hello is what the dialing server says first.
type hello struct {
	purpose byte
	from    string // id of the dialing server
	cluster string // its cluster, "" while unknown
	target  string // id of the server it wants to reach, "" when it does not know
	addr    string // address it dialed, as in its list of servers
}

// answer is what the other one says to that.
type answer struct {
	code    byte
	text    string // reason of a refusal
	id      string // id of the answering server
	cluster string // its cluster, "" while unknown
}

func (h hello) encode() []byte {
	return encodeHandshake(h.purpose, h.from, h.cluster, h.target, h.addr)
}

func (a answer) encode() []byte {
	return encodeHandshake(a.code, cutText(a.text), a.id, a.cluster)
}

// cutText keeps a refusal within its bound. It is for people, and its start says the most.
func cutText(s string) string {
	return s[:min(len(s), maxString)]
}

func encodeHandshake(code byte, strings ...string) []byte {
	b := append(bytes.Clone(magic[:]), protocolVersion, code, 0, 0)
	for _, s := range strings {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	binary.BigEndian.PutUint16(b[6:], uint16(len(b)-headSize))
	return b
}

func readHello(r io.Reader) (hello, error) {
	code, s, err := readHandshake(r, helloStrings)
	if err != nil {
		return hello{}, err
	}
	if code != purposeRaft && code != purposeCall {
		return hello{}, fmt.Errorf("%w: purpose %d is none of it", errNotPeer, code)
	}
	return hello{purpose: code, from: s[0], cluster: s[1], target: s[2], addr: s[3]}, nil
}

func readAnswer(r io.Reader) (answer, error) {
	code, s, err := readHandshake(r, answerStrings)
	if err != nil {
		return answer{}, err
	}
	if code != answerOK && code != answerRefused {
		return answer{}, fmt.Errorf("%w: answer %d is none of it", errNotPeer, code)
	}
	return answer{code: code, text: s[0], id: s[1], cluster: s[2]}, nil
}

// readHandshake reads one handshake message and not a byte more: what follows belongs to raft or to the calls.
func readHandshake(r io.Reader, strings int) (code byte, out []string, err error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("%w (it ended the handshake: %w)", errNotPeer, err)
	}
	if !bytes.Equal(head[:4], magic[:]) {
		return 0, nil, fmt.Errorf("%w: it starts with %q", errNotPeer, head[:])
	}
	code = head[5]
	// A refusal is read whatever its version: it is the other version's way to say why.
	if head[4] != protocolVersion && code != answerRefused {
		return 0, nil, fmt.Errorf("%w: it has %d, this server %d; upgrade the older one", errVersion, head[4], protocolVersion)
	}
	size := int(binary.BigEndian.Uint16(head[6:]))
	if size > maxBody {
		return 0, nil, fmt.Errorf("%w: a handshake of %d bytes, at most %d are allowed", errNotPeer, size, maxBody)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("%w (it ended the handshake: %w)", errNotPeer, err)
	}
	for range strings {
		var s []byte
		if s, body, err = cutString(body); err != nil {
			return 0, nil, err
		}
		out = append(out, string(s))
	}
	if len(body) != 0 {
		return 0, nil, fmt.Errorf("%w: %d bytes too many in the handshake", errNotPeer, len(body))
	}
	return code, out, nil
}

func cutString(b []byte) (s, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, fmt.Errorf("%w: the handshake is too short", errNotPeer)
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > maxString || n > len(b)-2 {
		return nil, nil, fmt.Errorf("%w: a string of %d bytes in the handshake", errNotPeer, n)
	}
	return b[2 : 2+n], b[2+n:], nil
}
