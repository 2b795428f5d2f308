//! What a site with a real Apache is promised, in both of its worlds: prefork with mod_php, event with php-fpm. One promise a file.

#![forbid(unsafe_code)]

mod a_page_without_a_handoff_is_untouched;
