module github.com/ravnest/ravnest/engine/kernel/_bench

go 1.26.0

require github.com/ravnest/ravnest v0.0.0

require golang.org/x/sys v0.50.0

replace github.com/ravnest/ravnest => ../../..
