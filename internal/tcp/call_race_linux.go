//go:build race

package tcp

import "syscall"

// The race detector counts what goes through a socket as a word from one goroutine to another, if syscall's functions send and receive it.

func read(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.Read, fd, p) }

func write(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.Write, fd, p) }

func call(do func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, err := do(int(fd), p)
		switch errno, _ := err.(syscall.Errno); { //nolint:errorlint // as syscall documents it
		case err == nil:
			return n, 0
		case errno != syscall.EINTR:
			return 0, errno
		}
	}
}
