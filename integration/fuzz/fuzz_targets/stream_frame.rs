#![no_main]

holdfast_fuzz::target!(stream_frame);
