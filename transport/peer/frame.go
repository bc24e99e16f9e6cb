package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxCallFrame is the largest frame of a call, counted after its length word, in bytes. A frame is read into
	// memory whole. The largest thing sent in one is a command as it goes to the log, which is bounded well below.
	MaxCallFrame = 2 << 20

	// frameFixed is what a frame holds beside its payload: call id and code.
	frameFixed = 8 + 1

	// MaxCallPayload is the largest payload of a call or of its answer, in bytes.
	MaxCallPayload = MaxCallFrame - frameFixed

	frameHeadSize = 4 + frameFixed
)

// Codes of frames. From the caller: a Kind starts a call, codeCancel gives one up. To the caller: codeResult and
// codeFailure end one. Both ways: codeAlive, with call id 0 and no payload.
const (
	codeAlive   byte = 0
	codeResult  byte = 1
	codeFailure byte = 2
	codeCancel  byte = 0xff
)

// Kind says what a call asks for.
type Kind byte

// Kinds of calls. 0 and 255 cannot be used: they are codes of the protocol.
const (
	// KindPropose hands an envelope to the leader for the log.
	KindPropose Kind = 1
	// KindConfirm asks the leader for a confirmed index.
	KindConfirm Kind = 2
	// KindStatus asks a server for its status.
	KindStatus Kind = 3
	// KindHello is what servers ask each other before they bootstrap.
	KindHello Kind = 4
	// KindTransfer asks the leader to hand over leadership.
	KindTransfer Kind = 5
	// KindRenew hands the renewal of a node's session to the leader.
	KindRenew Kind = 6
	// KindReport hands the progress of a move to the leader.
	KindReport Kind = 7
	// KindLeading asks the leader for what it alone counts.
	KindLeading Kind = 8
	// KindHandsTo asks the leader whether it is handing over to a server.
	KindHandsTo Kind = 10
	// KindInvite tells a server that waits to be joined which cluster it is of now.
	KindInvite Kind = 20
	// KindMembers asks the leader to let a server join or leave.
	KindMembers Kind = 21
)

// String returns the kind's name, or its number where it has none.
func (k Kind) String() string {
	switch k {
	case KindPropose:
		return "propose"
	case KindConfirm:
		return "confirm"
	case KindStatus:
		return "status"
	case KindHello:
		return "hello"
	case KindTransfer:
		return "transfer"
	case KindRenew:
		return "renew"
	case KindReport:
		return "report"
	case KindLeading:
		return "leading"
	case KindHandsTo:
		return "hands-to"
	case KindInvite:
		return "invite"
	case KindMembers:
		return "members"
	default:
		return fmt.Sprintf("kind-%d", byte(k))
	}
}

var errBadFrame = errors.New("malformed frame")

// frameHead is a frame without its payload.
type frameHead struct {
	id   uint64
	code byte
	size int // of the payload, bytes
}

// appendFrame appends a whole frame to b. The payload must be within MaxCallPayload.
func appendFrame(b []byte, id uint64, code byte, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(frameFixed+len(payload)))
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, code)
	return append(b, payload...)
}

// readFrameHead reads and checks the fixed part of a frame; nothing of the payload's size is allocated before.
func readFrameHead(r io.Reader) (frameHead, error) {
	var raw [frameHeadSize]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return frameHead{}, err
	}
	size := binary.BigEndian.Uint32(raw[:])
	if size < frameFixed || size > MaxCallFrame {
		return frameHead{}, fmt.Errorf("%w: %d bytes, %d to %d are allowed", errBadFrame, size, frameFixed, MaxCallFrame)
	}
	h := frameHead{id: binary.BigEndian.Uint64(raw[4:]), code: raw[12], size: int(size) - frameFixed}
	if (h.code == codeAlive || h.code == codeCancel) && h.size != 0 {
		return frameHead{}, fmt.Errorf("%w: code %d with a payload of %d bytes", errBadFrame, h.code, h.size)
	}
	if h.code == codeAlive && h.id != 0 {
		return frameHead{}, fmt.Errorf("%w: a sign of life for call %d", errBadFrame, h.id)
	}
	return h, nil
}

// readPayload reads what follows the head h.
func readPayload(r io.Reader, h frameHead) ([]byte, error) {
	payload := make([]byte, h.size)
	_, err := io.ReadFull(r, payload)
	return payload, err
}
