// Command probe is the only file in the image "static": it shows that a job needs nothing
// from its image. It prints its arguments, listens, serves HTTP, stands for programs that serve models
// or calls dstack's server when told to, and exits as told.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	for _, arg := range os.Args[1:] {
		verb, value, _ := strings.Cut(arg, "=")
		switch verb {
		case "exit":
			code, _ := strconv.Atoi(value)
			os.Exit(code)
		case "wait":
			d, _ := time.ParseDuration(value)
			<-time.After(d)
		case "serve":
			serve(value)
		case "web":
			web(value)
		case "tgi":
			tgi(value)
		case "router":
			route(value)
		case "worker":
			work(value)
		case "join":
			join(value)
		case "call":
			call(value)
		case "env":
			fmt.Println(value + "=" + os.Getenv(value))
		default:
			fmt.Println(arg)
		}
	}
}

// serve answers every connection with one line.
func serve(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("serving", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, "hello from the probe")
		c.Close()
	}
}
