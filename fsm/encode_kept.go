package fsm

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Of remembered results and audit records there are some 80,000 on every server
// that is used, and the state is hashed again and again: they are encoded by hand
// for the same reason as scopes, and as the same bytes. A text that is not UTF-8
// has no encoding.

// Fields of pb.Record.
const (
	fieldDedup protowire.Number = 7
	fieldAudit protowire.Number = 41
)

// keptEncoder encodes one record after the other, each good until the next.
type keptEncoder struct{ result, inner, whole []byte }

// keptEncodings gives put each of [State.keptRecords], encoded.
func (s State) keptEncodings(put func(body []byte) error) error {
	var k keptEncoder
	for r := range s.Audit(1) {
		body, ok := k.audit(r)
		if !ok {
			return notText(r)
		}
		if err := put(body); err != nil {
			return err
		}
	}
	for number, c := range s.dedup.all() {
		body, ok := k.dedup(number, c)
		if !ok {
			return notText(c.record(number))
		}
		if err := put(body); err != nil {
			return err
		}
	}
	return nil
}

// notText is the error of a record that no snapshot can hold.
func notText(r proto.Message) error {
	return fmt.Errorf("record %v cannot be encoded: a text of it is not UTF-8", r)
}

// audit returns the pb.Record of an audit record; false if a text is not UTF-8.
func (k *keptEncoder) audit(r *AuditRecord) ([]byte, bool) {
	if !validTexts(r.GetActor(), r.GetSource(), r.GetAction(), r.GetSubject(), r.GetMove(), r.GetReason(), r.GetCode()) {
		return nil, false
	}
	b := appendNumber(k.inner[:0], 1, r.GetNumber())
	b = appendNumber(b, 2, r.GetIndex())
	b = appendNumber(b, 3, uint64(r.GetTimeMs()))
	b = appendText(b, 4, r.GetActor())
	b = appendText(b, 5, r.GetSource())
	b = appendText(b, 6, r.GetAction())
	b = appendText(b, 7, string(r.GetPrefix()))
	b = appendText(b, 8, r.GetSubject())
	b = appendText(b, 9, r.GetMove())
	b = appendText(b, 10, r.GetReason())
	k.inner = appendText(b, 11, r.GetCode())
	return k.as(fieldAudit), true
}

// dedup returns the pb.Record of a remembered command; false if a text is not UTF-8.
func (k *keptEncoder) dedup(chunk uint64, c command) ([]byte, bool) {
	if !validTexts(c.id) || !k.encodeResult(c.result) {
		return nil, false
	}
	b := appendNumber(k.inner[:0], 1, chunk)
	b = appendText(b, 2, c.id)
	b = appendText(b, 3, string(c.hash[:]))
	if c.result != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), k.result)
	}
	k.inner = b
	return k.as(fieldDedup), true
}

// encodeResult encodes a result into result.
func (k *keptEncoder) encodeResult(r *Result) bool {
	if !validTexts(r.GetCode(), r.GetDetail(), r.GetMove(), r.GetOwner()) || !validTexts(r.GetWarnings()...) {
		return false
	}
	b := appendText(k.result[:0], 1, r.GetCode())
	b = appendText(b, 2, r.GetDetail())
	b = appendNumber(b, 3, r.GetIndex())
	b = appendNumber(b, 4, r.GetEpoch())
	b = appendText(b, 5, r.GetMove())
	b = appendText(b, 6, r.GetOwner())
	b = appendText(b, 7, string(r.GetConflictsWith()))
	b = appendNumber(b, 8, r.GetFloor())
	b = appendNumber(b, 9, r.GetChanged())
	for _, w := range r.GetWarnings() { // an empty one too
		b = protowire.AppendString(protowire.AppendTag(b, 10, protowire.BytesType), w)
	}
	k.result = b
	return true
}

// as wraps what was encoded last into the record of a kind.
func (k *keptEncoder) as(kind protowire.Number) []byte {
	k.whole = protowire.AppendBytes(protowire.AppendTag(k.whole[:0], kind, protowire.BytesType), k.inner)
	return k.whole
}

func validTexts(texts ...string) bool {
	for _, t := range texts {
		if !utf8.ValidString(t) {
			return false
		}
	}
	return true
}
