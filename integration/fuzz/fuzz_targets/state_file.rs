#![no_main]

holdfast_fuzz::target!(state_file);
