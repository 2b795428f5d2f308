//! What a site with a real Apache is promised, in both of its worlds: prefork with mod_php, event with php-fpm. One promise a file.

#![forbid(unsafe_code)]

mod a_503_says_when_to_come_back;
mod a_page_without_a_handoff_is_untouched;
mod a_site_of_the_c_module_works_with_ours;
mod the_documentation_is_true;
mod whoever_sets_the_headers_is_handed_over;
