package main

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// thisThread is how the kernel is asked about the thread that asks.
const thisThread = 0

// atRealTime runs do in a thread that no other program of the machine can put aside, if the kernel lets it. It must be short:
// Linux stops such threads after 0.95 s of a second.
func atRealTime(do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	usual, err := unix.SchedGetAttr(thisThread, 0)
	if err != nil || realTime() != nil {
		return do()
	}
	return errors.Join(do(), unix.SchedSetAttr(thisThread, usual, 0))
}

// realTime gives the thread the lowest of the priorities that come before those of all usual programs.
func realTime() error {
	return unix.SchedSetAttr(thisThread, &unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}

// mayBeRealTime is whether the kernel lets atRealTime do what it is for.
func mayBeRealTime() (may bool) {
	_ = atRealTime(func() error {
		now, err := unix.SchedGetAttr(thisThread, 0)
		may = err == nil && now.Policy == unix.SCHED_FIFO
		return nil
	})
	return may
}
