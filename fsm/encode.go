package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/snapshot"
)

// Encode writes the state as a snapshot stream, see package snapshot. The error
// is that of to.
func (s State) Encode(to io.Writer) error { return s.encode(to, nil) }

// encode also writes the record that only a backup ends with.
func (s State) encode(to io.Writer, last *pb.Record) error {
	w, err := snapshot.NewWriter(to)
	if err != nil {
		return err
	}
	if err := s.encodings(w.WriteEncoded); err != nil {
		return err
	}
	if last != nil {
		if err := w.Write(last); err != nil {
			return err
		}
	}
	return w.Close()
}

// Hash is the SHA-256, in hex, over the encoded records. Equal states have
// equal hashes. It costs O(size of the state).
func (s State) Hash() string {
	h := sha256.New()
	var length [4]byte
	if err := s.encodings(func(body []byte) error {
		binary.BigEndian.PutUint32(length[:], uint32(len(body)))
		h.Write(length[:])
		h.Write(body)
		return nil
	}); err != nil {
		panic(fmt.Sprintf("state %d cannot be encoded: %v", s.index, err)) // it came from decoded commands
	}
	return hex.EncodeToString(h.Sum(nil))
}

// encodings gives put each of [State.Records], encoded; what put is given is good
// until it returns. The error is that of put, or of a record that cannot be
// encoded.
func (s State) encodings(put func(body []byte) error) (err error) {
	var buf, inner []byte
	message := func(r *pb.Record) bool {
		if buf, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(buf[:0], r); err != nil {
			err = fmt.Errorf("record %v cannot be encoded: %w", r, err)
			return false
		}
		err = put(buf)
		return err == nil
	}
	if !s.headRecords(message) {
		return err
	}
	for c := range s.scopes.Scopes() {
		inner = appendScope(inner[:0], c)
		buf = protowire.AppendBytes(append(buf[:0], recordOfScope), inner)
		if err := put(buf); err != nil {
			return err
		}
	}
	if !s.tombstoneRecords(message) || !s.moveRecords(message) || !s.sideRecords(message) {
		return err
	}
	if err := s.keptEncodings(put); err != nil {
		return err
	}
	_ = s.stagedRecords(message)
	return err
}

// There can be a million scopes, and but for them a state is small: so their
// records are encoded and decoded here, by hand, which
// takes no memory besides the scope. What it writes are the same bytes as those of
// protobuf, and what it does not expect is left to that.

// Fields of pb.Record and pb.ScopeRecord.
const (
	fieldScope protowire.Number = 3

	fieldPrefix   protowire.Number = 1
	fieldWriter   protowire.Number = 2
	fieldFallback protowire.Number = 3
	fieldOwner    protowire.Number = 4
	fieldEpoch    protowire.Number = 5
	fieldFailover protowire.Number = 6
	fieldLease    protowire.Number = 7
	fieldArmed    protowire.Number = 8
	fieldChanged  protowire.Number = 9
	fieldQuiesced protowire.Number = 10
	fieldReleased protowire.Number = 11

	// recordOfScope is the tag that the record of a scope begins with.
	recordOfScope = byte(fieldScope)<<3 | byte(protowire.BytesType)
)

// appendScope appends the pb.ScopeRecord of a scope.
func appendScope(b []byte, c *scope.Scope) []byte {
	b = appendText(b, fieldPrefix, string(c.Prefix))
	b = appendText(b, fieldWriter, string(c.Writer))
	b = appendText(b, fieldFallback, string(c.Fallback))
	b = appendText(b, fieldOwner, string(c.Owner))
	b = appendNumber(b, fieldEpoch, c.Epoch)
	b = appendText(b, fieldFailover, c.Failover.String())
	b = appendText(b, fieldLease, c.Lease.String())
	b = appendNumber(b, fieldArmed, protowire.EncodeBool(c.Armed))
	b = appendNumber(b, fieldChanged, c.Changed)
	b = appendText(b, fieldQuiesced, string(c.Quiesced))
	return appendNumber(b, fieldReleased, protowire.EncodeBool(c.Released))
}

func appendText(b []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), text)
}

func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

// scopeFields are the fields of an encoded pb.ScopeRecord, by their numbers.
type scopeFields struct {
	texts   [fieldReleased + 1][]byte
	numbers [fieldReleased + 1]uint64
}

// readScope reads the encoded record of a scope; false where it is another
// record, or is not exactly what this release knows of one.
func readScope(record []byte) (f scopeFields, ok bool) {
	if len(record) == 0 || record[0] != recordOfScope {
		return f, false
	}
	b, n := protowire.ConsumeBytes(record[1:])
	if n != len(record)-1 {
		return f, false
	}
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 || field > fieldReleased {
			return f, false
		}
		b = b[n:]
		switch {
		case isNumber(field) && kind == protowire.VarintType:
			f.numbers[field], n = protowire.ConsumeVarint(b)
		case !isNumber(field) && kind == protowire.BytesType:
			f.texts[field], n = protowire.ConsumeBytes(b)
			if field != fieldPrefix && !utf8.Valid(f.texts[field]) {
				return f, false
			}
		default:
			return f, false
		}
		if n < 0 {
			return f, false
		}
		b = b[n:]
	}
	return f, true
}

func isNumber(field protowire.Number) bool {
	return field == fieldEpoch || field == fieldArmed || field == fieldChanged || field == fieldReleased
}
